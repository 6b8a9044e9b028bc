"""Images of a site are rescaled and recoloured as computed by hand, each on its own."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.data.input_views import prepare_sides
from bcd.data.items import Wanted
from bcd.data.matching import ColourMap, Match
from bcd.data.quality.appearance import Appearance, Spread
from bcd.data.reading import fit, mask_scale_bar, prepare
from bcd.data.sandbox import read_all
from bcd.data.site_match import make_match
from bcd.data.stains import density_of, macenko_stains
from bcd.errors import BcdError
from tests.helpers.noise import noise, write_image

ONE = Spread(20, 1.0, 1.0, 1.0)


def appearance(
    cells: float | None = 20.0,
    white: tuple[float, float, float] | None = (240.0, 240.0, 240.0),
    mean: tuple[float, float, float] = (80.0, 0.0, 0.0),
    std: tuple[float, float, float] = (10.0, 10.0, 10.0),
    amounts: tuple[float, float] = (1.0, 1.0),
) -> Appearance:
    spread = None if cells is None else Spread(20, cells - 2, cells, cells + 2)
    stains = ((0.8, 0.6, 0.0), (0.0, 1.0, 0.0))
    lit = None if white is None else (ONE, ONE, ONE)
    known = white is not None
    return Appearance(
        30, spread, lit, white, (ONE, ONE, ONE), mean, std,
        stains if known else None, amounts if known else None,
    )  # fmt: skip


def random(size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(60, 200, (size, size, 3), dtype=np.uint8)


def test_cells_twice_as_large_are_reduced_and_surrounded_by_mirror_images() -> None:
    match = make_match(appearance(20), appearance(40), True, "none")
    assert match == Match(0.5, None)
    image = noise(1, 3, size=128)
    made = match.prepare(image, 64, False)
    np.testing.assert_array_equal(made[16:48, 16:48], fit(image, 32))
    np.testing.assert_array_equal(made[15], made[17])  # mirrored at the edge
    np.testing.assert_array_equal(made[:, 48], made[:, 46])


def test_cells_half_as_large_are_enlarged_from_the_centre() -> None:
    match = make_match(appearance(20), appearance(10), True, "none")
    image = noise(1, 3, size=128)
    made = match.prepare(image, 64, False)
    np.testing.assert_array_equal(made, image[32:96, 32:96])


def test_a_very_small_image_still_fills_the_input() -> None:
    made = Match(0.125, None).prepare(random(300), 48, False)
    assert made.shape == (48, 48, 3)
    assert made.std(axis=(0, 1)).min() > 0


def test_the_scale_bar_is_masked_where_it_is_in_the_file() -> None:
    image = random(128)
    marked = image.copy()
    marked[-10:, -20:] = 255
    for scale in (0.5, 1.0, 1.2):
        match = Match(scale, None)
        one, other = (match.prepare(i, 64, True) for i in (image, marked))
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        Match(1.0, None).prepare(image, 64, True), fit(mask_scale_bar(image), 64)
    )


def test_a_white_point_scales_each_channel() -> None:
    own, site = appearance(white=(240, 230, 250)), appearance(white=(200, 230, 125))
    match = make_match(own, site, False, "white_point")
    image = random()
    expected = np.clip(np.rint(image * np.array([240 / 200, 1, 2])), 0, 255)
    np.testing.assert_allclose(match.prepare(image, 64, False), expected, atol=1)


def test_reinhard_moves_each_cielab_channel() -> None:
    own = appearance(mean=(70, 5, -5), std=(12, 6, 9))
    site = appearance(mean=(60, 10, 10), std=(6, 12, 9))
    match = make_match(own, site, False, "reinhard")
    grey = np.full((8, 8, 3), 145, np.uint8)
    lab = cv2.cvtColor(grey.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    moved = (lab - (60, 10, 10)) * (2, 0.5, 1) + (70, 5, -5)
    got = match.prepare(grey, 8, False)
    found = cv2.cvtColor(got.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    np.testing.assert_allclose(found, moved, atol=0.6)


def test_macenko_replaces_the_amounts_of_dyes() -> None:
    own = appearance(white=(250, 250, 250), amounts=(2.0, 1.0))
    site = appearance(white=(230, 240, 220), amounts=(1.0, 2.0))
    match = make_match(own, site, False, "macenko")
    dyes = np.array(site.stains)
    for amount in ((0.2, 0.4), (0.5, 0.1), (0.0, 0.0)):
        light = (np.array(site.white) + 1) * np.exp(-np.array(amount) @ dyes) - 1
        pixel = np.rint(light).astype(np.uint8)[None, None]
        wanted = (np.array(own.white) + 1) * np.exp(-(np.array(amount) * (2, 0.5)) @ dyes) - 1
        np.testing.assert_allclose(match.prepare(pixel, 1, False)[0, 0], wanted, atol=2)


@pytest.mark.parametrize("colour", ["none", "white_point", "reinhard", "macenko"])
def test_a_site_like_the_training_images_is_left_as_it_is(colour: str) -> None:
    match = make_match(appearance(), appearance(), True, colour)
    image = random(96)
    np.testing.assert_allclose(
        match.prepare(image, 48, False).astype(int), prepare(image, 48, False), atol=1
    )


def test_macenko_finds_the_dyes_of_a_mixture() -> None:
    rng = np.random.default_rng(0)
    dyes = np.array([(0.75, 0.62, 0.23), (0.25, 0.93, 0.26)])
    dyes /= np.linalg.norm(dyes, axis=1)[:, None]
    amounts = rng.uniform(0, 1, (20_000, 2)) * (1.2, 0.8)
    amounts[rng.random(20_000) < 0.3] *= (1, 0)
    amounts[rng.random(20_000) < 0.3] *= (0, 1)
    white = np.array((245.0, 240.0, 250.0))
    pixels = np.rint((white + 1) * np.exp(-amounts @ dyes) - 1).astype(np.uint8)
    assert np.abs(density_of(pixels, white) - amounts @ dyes).max() < 0.02
    found = macenko_stains(pixels, white)
    assert found is not None
    np.testing.assert_allclose(found[0], dyes, atol=0.04)
    np.testing.assert_allclose(found[1], (1.2, 0.8), rtol=0.1)
    assert macenko_stains(np.full((500, 3), 240, np.uint8), white) is None


@pytest.mark.parametrize(
    ("own", "site", "colour", "said"),
    [
        (appearance(None), appearance(), "none", "too few of the training images had red cells"),
        (appearance(), appearance(None), "none", "too few of the site's images had red cells"),
        (appearance(16), appearance(1.9), "none", "more than 8 times apart"),
        (appearance(), appearance(white=None), "white_point", "had a background"),
        (appearance(), appearance(white=None), "macenko", "had stains"),
    ],
)
def test_what_was_not_measured_cannot_be_matched(
    own: Appearance, site: Appearance, colour: str, said: str
) -> None:
    with pytest.raises(BcdError, match=said):
        make_match(own, site, True, colour)


def test_readers_in_other_processes_match_images_in_the_same_way(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    matrix = tuple(np.diag((1.1, 0.9, 1.0)).ravel().tolist())
    match = Match(0.7, ColourMap("lab", matrix, (1.0, 2.0, -3.0)))
    assert Match.from_plain(json.loads(json.dumps(match.to_plain()))) == match
    views = (InputView("plain", 40), InputView("grey", 56))
    files = [write_image(folder / f"{i}.png", noise(i, i, size=80)) for i in range(3)]
    wanted = Wanted(views, True, match)
    inside, outside = ([a for _, a in read_all(files, wanted, workers)] for workers in (0, 1))
    for one, other in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(one, other)
    resized = prepare_sides(noise(0, 0, size=80), views, True, match)
    first = np.asarray(inside[0])[: 40 * 40 * 3].reshape(40, 40, 3)
    np.testing.assert_array_equal(first, resized[40])
