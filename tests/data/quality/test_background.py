"""The colours of the background are those of background, and know nothing of the cells."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import cross_val_predict

from bcd.data.quality.background import QUANTILES, SAMPLE, background_colours
from bcd.data.quality.image_statistics import describe
from bcd.data.reading import decode_image, mask_scale_bar
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

Pixels = NDArray[np.uint8]


def drawn(number: int) -> Pixels:
    """A smear whose slide, and with it light and background, says nothing of its cells."""
    return draw_smear(CLASS_NAMES[number % 4], slide=number // 4 % 40, index=number)


def cells(image: Pixels) -> NDArray[np.bool_]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey < 0.85 * np.quantile(grey, 0.99))


def photographed(image: Pixels) -> Pixels:
    """Sharpened, so that cells have halos, a little out of focus, and kept as JPEG."""
    light = image.astype(np.float32)
    light += 0.8 * (light - cv2.GaussianBlur(light, (0, 0), 3))
    seen = np.clip(0.9 * cv2.GaussianBlur(light, (0, 0), 1), 0, 255).astype(np.uint8)
    _, code = cv2.imencode(".jpg", seen[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return decode_image(code.tobytes())


def explained(values: NDArray[np.float32], wanted: NDArray[np.float64]) -> float:
    """R2 of a forest on images that it has not seen."""
    forest = RandomForestRegressor(30, random_state=0, min_samples_leaf=3)
    missed = wanted - cross_val_predict(forest, values, wanted, cv=5)
    return float(1 - np.square(missed).mean() / wanted.var())


def test_the_background_does_not_tell_how_much_is_stained_and_the_whole_image_does() -> None:
    images = [drawn(number) for number in range(120)]
    stained = np.asarray([cells(image).mean() for image in images])
    statistics = [describe(photographed(image)) for image in images]
    found = {
        n: np.stack([look[n] for look in statistics])
        for n in ("quantiles", "patches", "background_quantiles")
    }
    seen = np.isfinite(found["background_quantiles"]).all(axis=1)
    assert seen.mean() > 0.97
    assert explained(found["quantiles"], stained) > 0.6
    assert explained(found["patches"], stained) < 0.3
    assert explained(found["background_quantiles"][seen], stained[seen]) < 0.1
    # The share that is masked is known, and kept apart from the colours.
    masked = np.stack([look["stained"] for look in statistics])
    assert np.corrcoef(masked, stained)[0, 1] > 0.8


def test_colours_are_those_of_the_background_in_uneven_light() -> None:
    for number in range(12):
        image = drawn(number)
        shade = np.linspace(1, 0.9, 224)[None, :, None]
        uneven = (image * shade).astype(np.uint8)
        glass = uneven[~cv2.dilate(cells(image).astype(np.uint8), np.ones((9, 9))).astype(bool)]
        found = background_colours(uneven)[0].reshape(len(QUANTILES), 3)
        np.testing.assert_allclose(found[2], np.median(glass, axis=0), atol=8)
        assert (np.diff(found, axis=0) >= 0).all()


def test_a_halo_around_cells_does_not_reach_the_colours() -> None:
    for number in range(12):
        image = drawn(number)
        inside = cells(image).astype(np.uint8)
        near = cv2.dilate(inside, np.ones((5, 5), np.uint8)) > inside
        assert near.mean() > 0.05
        tinted = image.copy()
        tinted[near] -= np.minimum(tinted[near], np.array([0, 6, 0], np.uint8))
        before, after = background_colours(image)[0], background_colours(tinted)[0]
        np.testing.assert_allclose(after, before, atol=2)


def test_more_cells_on_the_same_background_change_nothing() -> None:
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal([235, 230, 240], 2, (224, 224, 3)), 0, 255).astype(np.uint8)
    found, shares = [], []
    for count in (5, 20, 60):
        image = glass.copy()
        for place in rng.integers(0, 224, (count, 2)).tolist():
            cv2.circle(image, place, 10, (120, 70, 160), -1)
        colours, stained = background_colours(image)
        found.append(colours)
        shares.append(float(stained))
    assert shares[2] > 4 * shares[0]
    np.testing.assert_allclose(found[1], found[0], atol=1.5)
    np.testing.assert_allclose(found[2], found[0], atol=1.5)


def full(image: Pixels) -> Pixels:
    """Cells everywhere but in the middle, where fewer pixels are left than are looked at."""
    covered = np.full_like(image, 90)
    side = int(np.sqrt(SAMPLE))  # of 224, and so a quarter of the sample of 112
    middle = slice(112 - side // 2, 112 + side // 2)
    covered[middle, middle] = image[middle, middle]
    return covered


def one_cell(image: Pixels) -> Pixels:
    """One cell that leaves but the corners free, where the background is."""
    cv2.circle(image, (112, 112), 118, (200, 140, 190), -1)
    cv2.circle(image, (112, 112), 50, (110, 60, 150), -1)
    return image


@pytest.mark.parametrize("change", [full, np.invert, one_cell])
def test_without_background_there_are_no_colours(change: object) -> None:
    assert callable(change)
    colours, stained = background_colours(change(drawn(0)))
    assert np.isnan(colours).all()
    assert np.isfinite(stained)


def test_a_scale_bar_reaches_neither_background_nor_patches() -> None:
    for number in range(12):
        image = drawn(number)
        marked = image.copy()
        marked[-26:-4, -42:-4] = 255
        marked[-12:-8, -36:-8] = 0
        plain, found = describe(mask_scale_bar(image)), describe(mask_scale_bar(marked))
        np.testing.assert_array_equal(found["patches"], plain["patches"])
        np.testing.assert_array_equal(describe(marked)["patches"], plain["patches"])
        before, after = background_colours(image)[0], background_colours(marked)[0]
        np.testing.assert_allclose(after, before, atol=4)
