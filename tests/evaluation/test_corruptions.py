"""Each corruption does what its name and unit state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.synthetic.smears import draw_smear
from bcd.evaluation import corruptions as d

Pixels = NDArray[np.uint8]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_colour(*rgb: int, size: int = 16) -> Pixels:
    return np.full((size, size, 3), rgb, np.uint8)


def smear(size: int = 96) -> Pixels:
    return draw_smear("Pro-B", slide=1, index=3, size=size)


def point(size: int = 41) -> Pixels:
    pixels = one_colour(0, 0, 0, size=size)
    pixels[size // 2, size // 2] = 255
    return pixels


def spread(pixels: Pixels) -> NDArray[np.float64]:
    """Variances of the intensity along its principal axes, smaller first, in square pixels."""
    weights = pixels[..., 0].astype(float)
    y, x = np.indices(weights.shape)
    covariance = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=weights.ravel(), ddof=0)
    return np.asarray(np.linalg.eigvalsh(covariance))


NOTHING: dict[str, Callable[[Pixels], Pixels]] = {
    "brightness": lambda p: d.brightness(p, 1),
    "contrast": lambda p: d.contrast(p, 1),
    "saturation": lambda p: d.saturation(p, 1),
    "hue": lambda p: d.hue(p, 0),
    "stain": lambda p: d.stain(p, 0, rng()),
    "white balance": lambda p: d.white_balance(p, d.DAYLIGHT),
    "defocus": lambda p: d.defocus(p, 0),
    "motion blur": lambda p: d.motion_blur(p, 0, rng()),
    "noise": lambda p: d.noise(p, 0, rng()),
    "pixelation": lambda p: d.pixelation(p, 1),
    "zoom": lambda p: d.zoom(p, 1),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_strength_zero_changes_nothing_for_any_colour(kind: str) -> None:
    anything = rng().integers(0, 256, (45, 62, 3), dtype=np.uint8)
    for pixels in (anything, smear()):
        np.testing.assert_array_equal(NOTHING[kind](pixels), pixels)


def test_brightness_multiplies_and_clips_at_white() -> None:
    assert d.brightness(one_colour(100, 50, 240), 1.2)[0, 0].tolist() == [120, 60, 255]


def test_contrast_moves_away_from_the_mean_of_the_image() -> None:
    halves = one_colour(100, 100, 100)
    halves[:8] = 140
    changed = d.contrast(halves, 1.5)
    assert changed[0, 0].tolist() == [150] * 3
    assert changed[-1, 0].tolist() == [90] * 3


def test_without_saturation_the_channels_are_equal_and_as_bright() -> None:
    grey = d.saturation(smear(), 0)
    assert (grey == grey[..., :1]).all()
    luma = smear() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= 0.6
    assert d.saturation(one_colour(200, 100, 100), 0.5)[0, 0].tolist() == [165, 115, 115]


@pytest.mark.parametrize("degrees", [-30, -10, 10, 30])
def test_rotating_the_hue_keeps_value_and_saturation(degrees: float) -> None:
    turned, pixels = d.hue(smear(), degrees), smear()
    np.testing.assert_allclose(turned.max(2), pixels.max(2), atol=1)
    np.testing.assert_allclose(turned.min(2), pixels.min(2), atol=1)
    back = d.hue(turned, -degrees).astype(int)
    assert np.abs(back - pixels).max() <= 3


def test_hue_is_counted_from_red_by_green_to_blue() -> None:
    assert d.hue(one_colour(200, 0, 0), 120)[0, 0].tolist() == [0, 200, 0]
    assert d.hue(one_colour(200, 0, 0), -120)[0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize("vector", [(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
def test_a_single_stain_keeps_its_colour_and_changes_its_amount(
    vector: tuple[float, float, float],
) -> None:
    def stained(amount: float) -> NDArray[np.float64]:
        return 256 * np.exp(-amount * np.array(vector)) - 1

    image = np.broadcast_to(np.rint(stained(0.8)).astype(np.uint8), (4, 4, 3)).copy()
    seen = set()
    for seed in range(12):
        changed = d.stain(image, 0.2, rng(seed))[0, 0]
        more = bool(changed.sum() < image[0, 0].sum())
        np.testing.assert_allclose(changed, stained(0.96 if more else 0.64), atol=2)
        seen.add(more)
    assert seen == {True, False}


def test_stain_does_not_change_the_background() -> None:
    assert (d.stain(one_colour(255, 255, 255), 0.2, rng()) == 255).all()


@pytest.mark.parametrize(
    ("kelvin", "white"), [(5003, (0.9642, 1, 0.8251)), (7504, (0.9497, 1, 1.2264))]
)
def test_white_balance_follows_the_tabled_illuminants(
    kelvin: float, white: tuple[float, float, float]
) -> None:
    """D50 and D75 of CIE 15 against D65, as linear red and blue over green."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    light = np.linalg.solve(to_xyz, white) / np.linalg.solve(to_xyz, (0.9505, 1, 1.0888))
    shown = d.white_balance(one_colour(128, 128, 128), kelvin)[0, 0]
    assert shown[1] == 128
    assert (shown[0] > shown[2]) == (kelvin < d.DAYLIGHT)
    linear = ((shown / 255 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(linear / linear[1], light / light[1], rtol=0.02)


@pytest.mark.parametrize("radius", [2, 3, 4])
def test_defocus_turns_a_point_into_a_disc(radius: float) -> None:
    shown = d.defocus(point(), radius)
    assert shown.sum(dtype=int) == pytest.approx(3 * 255, rel=0.15)  # rounding to bytes
    np.testing.assert_allclose(spread(shown), radius**2 / 4, rtol=0.12, atol=0.2)


def test_half_a_pixel_of_defocus_is_little_but_not_nothing() -> None:
    peak = d.defocus(point(), 0.5)[20, 20, 0]
    assert 0.5 * 255 < peak < 0.75 * 255


def test_the_gaussian_reaches_two_pixels() -> None:
    shown = d.gaussian_blur(point(), 1.5)[..., 0]
    lit = np.argwhere(shown)
    assert lit.min() == 18
    assert lit.max() == 22
    assert shown[20, 21] / shown[20, 20] == pytest.approx(np.exp(-1 / 4.5), abs=0.05)


def test_motion_blur_turns_a_point_into_a_line_in_every_direction() -> None:
    angles = []
    for seed in range(12):
        shown = d.motion_blur(point(), 9, rng(seed))
        thin, long = spread(shown)
        assert long == pytest.approx(9**2 / 12, rel=0.15)
        assert thin < 0.4
        y, x = np.argwhere(shown[..., 0]).T - 20.0
        angles.append(np.degrees(np.arctan2((x * y).sum(), (x * x).sum())))
    assert np.ptp(angles) > 60


def test_jpeg_keeps_colours_apart_and_loses_detail() -> None:
    colour = d.jpeg(one_colour(200, 40, 90), 50)[0, 0].astype(int)
    assert np.abs(colour - [200, 40, 90]).max() < 8
    assert not np.array_equal(d.jpeg(smear(), 50), smear())


def test_noise_has_the_requested_deviation_and_zero_mean() -> None:
    grain = d.noise(one_colour(128, 128, 128, size=96), 0.05, rng()) - 128.0
    assert grain.std() == pytest.approx(0.05 * 255, rel=0.03)
    assert abs(grain.mean()) < 0.3
    assert abs(np.corrcoef(grain[..., 0].ravel(), grain[..., 1].ravel())[0, 1]) < 0.05


def test_pixelation_shows_the_means_of_squares() -> None:
    pixels = smear()
    means = pixels.reshape(48, 2, 48, 2, 3).mean((1, 3))
    shown = d.pixelation(pixels, 2)
    assert np.abs(shown[::2, ::2] - means).max() <= 0.6
    for corrupted in (shown[1::2, ::2], shown[::2, 1::2], shown[1::2, 1::2]):
        np.testing.assert_array_equal(corrupted, shown[::2, ::2])


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_zoom_moves_things_away_from_the_centre_or_towards_it(factor: float) -> None:
    pixels = one_colour(0, 0, 0, size=81)
    pixels[38:43, 58:63] = 255  # its middle 20 pixels right of the centre
    lit = d.zoom(pixels, factor)[..., 0].astype(float)
    y, x = np.indices(lit.shape)
    near = np.abs(x - 40) < 30  # not what the border mirrors
    assert (x * lit)[near].sum() / lit[near].sum() == pytest.approx(40 + 20 * factor, abs=0.2)
    assert (y * lit)[near].sum() / lit[near].sum() == pytest.approx(40, abs=0.2)
