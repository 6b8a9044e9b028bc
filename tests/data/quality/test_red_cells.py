"""Red-cell size is measured on smears whose true size is known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.quality.red_cells import red_cell_diameter
from bcd.data.synthetic.drawing import FIELD
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

Pixels = NDArray[np.uint8]
TRUE = 2 * 3.7 / FIELD * 224  # `red_cells` draws radii around 3.7 micrometres


def smears(count: int, size: int = 224) -> list[Pixels]:
    return [
        draw_smear(CLASS_NAMES[i % 4], slide=i % 8, index=i, seed=7, size=size)
        for i in range(count)
    ]


def magnified(image: Pixels, factor: float) -> Pixels:
    """Shows the middle of a large field, or all of it, at 224 pixels."""
    side = round(224 / factor * len(image) / 224)
    start = (len(image) - side) // 2
    return np.asarray(
        cv2.resize(
            image[start : start + side, start : start + side],
            (224, 224),
            interpolation=cv2.INTER_AREA,
        ),
        np.uint8,
    )


def median(images: list[Pixels]) -> float:
    found = np.array([red_cell_diameter(image) for image in images])
    assert np.isfinite(found).mean() > 0.3
    return float(np.nanmedian(found))


def test_the_diameter_of_drawn_cells_is_measured() -> None:
    assert median(smears(32)) == pytest.approx(TRUE, rel=0.06)


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_magnified_smears_have_cells_larger_by_the_factor(factor: float) -> None:
    images = smears(32, 448)
    assert median([magnified(i, factor) for i in images]) == pytest.approx(factor * TRUE, rel=0.08)


@pytest.mark.parametrize("factor", [0.5, 0.7])
def test_reduced_smears_have_cells_smaller_by_the_factor(factor: float) -> None:
    side = round(factor * 224)
    before, after = (224 - side) // 2, 224 - side - (224 - side) // 2
    found = []
    for image in smears(32):
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        edges = (before, after, before, after)
        found.append(
            np.asarray(cv2.copyMakeBorder(small, *edges, cv2.BORDER_REFLECT_101), np.uint8)
        )
    assert median(found) == pytest.approx(factor * TRUE, rel=0.08)


def discs(radii: list[float], colour: tuple[int, int, int]) -> Pixels:
    image = np.full((224, 224, 3), 240, np.uint8)
    for number, radius in enumerate(radii):
        centre = (28 + 56 * (number % 4), 28 + 56 * (number // 4))
        cv2.circle(image, centre, round(radius), colour, cv2.FILLED, cv2.LINE_AA)
    return image


def test_white_cells_and_their_size_do_not_count() -> None:
    red = discs([9.0] * 6, (200, 170, 170))
    both = red.copy()
    for x, y in ((112, 180), (168, 180)):
        cv2.circle(both, (x, y), 24, (110, 60, 190), cv2.FILLED, cv2.LINE_AA)
    assert red_cell_diameter(red) == pytest.approx(18.5, abs=1.5)
    assert red_cell_diameter(both) == pytest.approx(red_cell_diameter(red), abs=0.3)
    assert math.isnan(red_cell_diameter(discs([20.0] * 6, (110, 60, 190))))


def test_small_debris_does_not_pull_the_median() -> None:
    cells = discs([10.0] * 5 + [3.0] * 6, (200, 170, 170))
    assert red_cell_diameter(cells) == pytest.approx(20.5, abs=1.5)


def test_nothing_is_measured_where_there_are_no_round_cells() -> None:
    assert math.isnan(red_cell_diameter(np.full((224, 224, 3), 240, np.uint8)))
    assert math.isnan(red_cell_diameter(np.zeros((224, 224, 3), np.uint8)))
    assert math.isnan(red_cell_diameter(discs([9.0], (200, 170, 170))))  # a single one
    clumps = np.full((224, 224, 3), 240, np.uint8)
    for y in (40, 110, 180):  # rows of cells that overlap
        for x in range(40, 190, 14):
            cv2.circle(clumps, (x, y), 9, (200, 170, 170), cv2.FILLED)
    assert math.isnan(red_cell_diameter(clumps))
