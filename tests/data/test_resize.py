from __future__ import annotations

import cv2
import numpy as np
import pytest

from bcd.data.reading import fit
from tests.helpers.noise import noise


def test_an_image_of_the_wanted_size_stays_as_it_is() -> None:
    image = noise(seed=0, size=40)
    assert fit(image, 40) is image


@pytest.mark.parametrize("factor", [2, 5])
def test_shrinking_averages_blocks(factor: int) -> None:
    image = noise(seed=0, size=40)
    size = 40 // factor
    blocks = image.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    assert np.abs(fit(image, size) - blocks).max() <= 0.5


def test_enlarging_is_bilinear() -> None:
    image = noise(seed=0, size=40)
    enlarged = fit(image, 100)
    assert enlarged.shape == (100, 100, 3)
    expected = cv2.resize(image, (100, 100), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(enlarged, expected)
    assert enlarged.min() >= image.min()
    assert enlarged.max() <= image.max()


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (80, 120), (20, 30), (400, 10), (10, 400)])
def test_each_side_is_scaled_by_itself(shape: tuple[int, int]) -> None:
    down, across = np.mgrid[0 : shape[0], 0 : shape[1]]
    ramp = np.stack([255 * down / (shape[0] - 1), 255 * across / (shape[1] - 1)], -1)
    image = np.dstack([ramp, np.full(shape, 90.0)]).astype(np.uint8)
    fitted = fit(image, 40)
    assert fitted.shape == (40, 40, 3)
    assert fitted.dtype == np.uint8
    straight = np.linspace(0, 255, 40)
    assert np.abs(fitted[:, 20, 0] - straight).max() < 16
    assert np.abs(fitted[20, :, 1] - straight).max() < 16
    assert (fitted[..., 2] == 90).all()


@pytest.mark.parametrize("turned", [False, True])
def test_the_side_that_shrinks_is_averaged_though_the_other_grows(turned: bool) -> None:
    stripes = np.zeros((400, 20, 3), dtype=np.uint8)
    stripes[::2] = 200
    image = stripes.swapaxes(0, 1) if turned else stripes
    fitted = fit(np.ascontiguousarray(image), 40)
    np.testing.assert_array_equal(fitted, np.full((40, 40, 3), 100))
