"""Regions of a smear: disjoint, complete, and where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from bcd.data.cells.regions import REGIONS, find_regions
from bcd.data.cells.segmentation import find_cells
from bcd.data.reading import mask_scale_bar
from bcd.data.synthetic.labels import draw_labels
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

SEED = 73


def smear(index: int, size: int = 224) -> np.ndarray:
    return draw_smear(CLASS_NAMES[index % 4], slide=index, index=index, seed=SEED, size=size)


@pytest.mark.parametrize(
    "image",
    [
        smear(0),
        smear(1, 100),
        np.ascontiguousarray(smear(2)[:150]),
        np.zeros((64, 48, 3), np.uint8),
        np.full((32, 32, 3), 255, np.uint8),
    ],
    ids=["field", "small", "wide", "black", "white"],
)
def test_every_pixel_is_in_one_region(image: np.ndarray) -> None:
    regions = find_regions(image)
    assert tuple(regions) == REGIONS
    assert (np.sum(list(regions.values()), axis=0) == 1).all()
    assert all(mask.shape == image.shape[:2] for mask in regions.values())


def test_the_scale_bar_is_the_corner_that_is_covered() -> None:
    image = smear(3)
    covered = mask_scale_bar(255 - image) != 255 - image
    corner = find_regions(image)["scale bar"]
    assert not covered[~corner].any() and covered[corner].mean() > 0.5


def test_regions_hold_what_they_are_named_after() -> None:
    for index in range(4):
        image = smear(index)
        regions = find_regions(image)
        true = draw_labels(CLASS_NAMES[index % 4], slide=index, index=index, seed=SEED)
        seen = true.mask & ~regions["scale bar"]
        assert (regions["white cells"] & seen).sum() > 0.9 * seen.sum()
        assert (regions["background"] & seen).sum() < 0.05 * seen.sum()
        light = image.astype(float).mean(axis=2)
        means = {name: light[regions[name]].mean() for name in REGIONS[:3]}
        assert means["white cells"] < means["red cells"] < means["background"]
        # A red cell and its pale centre are one region.
        assert 0.1 < regions["red cells"].mean() < 0.8


def test_known_cells_are_not_looked_for_again() -> None:
    image = smear(1)
    cells = find_cells(image)
    known, own = find_regions(image, cells), find_regions(image)
    assert all(np.array_equal(known[name], own[name]) for name in REGIONS)
