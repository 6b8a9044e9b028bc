"""Measures of white cells, on shapes and smears whose true values are known."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.cells.measure import CellMeasures, measure_cells, summarize_cells
from bcd.data.cells.segmentation import Cells, find_cells
from bcd.data.synthetic.drawing import slide_appearance
from bcd.data.synthetic.labels import draw_labels
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

SEED = 72
WHITE, DYE = 240, 0.8


def drawn(mask: NDArray[np.uint8], nucleus: NDArray[np.uint8]) -> CellMeasures:
    """Measures of one cell; its nucleus absorbs DYE of the light."""
    image = np.full((*mask.shape, 3), WHITE, np.uint8)
    image[nucleus > 0] = round((WHITE + 1) * math.exp(-DYE)) - 1
    (found,) = measure_cells(image, Cells(mask.astype(np.int32), nucleus > 0))
    return found


def ellipse(wide: int, high: int) -> NDArray[np.uint8]:
    canvas = np.zeros((160, 160), np.uint8)
    cv2.ellipse(canvas, (80, 80), (wide, high), 20, 0, 360, 1, cv2.FILLED)
    return canvas


@pytest.mark.parametrize("radius", [8, 15, 40])
def test_a_disc_is_round_at_any_size(radius: int) -> None:
    disc = ellipse(radius, radius)
    found = drawn(disc, ellipse(radius // 2, radius // 2))
    assert found.roundness == pytest.approx(1, abs=0.03)
    assert found.area == disc.sum()
    assert not found.at_border


def test_a_longer_cell_is_less_round_by_as_much_as_it_should() -> None:
    a, b = 40, 20
    h = ((a - b) / (a + b)) ** 2
    perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))  # Ramanujan
    expected = 4 * math.pi * (math.pi * a * b) / perimeter**2
    assert drawn(ellipse(a, b), ellipse(10, 10)).roundness == pytest.approx(expected, abs=0.02)


def test_the_ratio_is_of_the_whole_cell_and_stain_is_of_the_nucleus() -> None:
    cell, nucleus = ellipse(40, 40), ellipse(30, 30)
    found = drawn(cell, nucleus)
    assert found.nucleus_ratio == nucleus.sum() / cell.sum()
    assert found.stain == pytest.approx(DYE, abs=0.02)


def test_a_cell_at_the_border_is_marked_and_left_out_of_medians() -> None:
    mask = np.zeros((100, 100), np.int32)
    mask[0:20, 10:30], mask[40:80, 40:80] = 1, 2
    image = np.full((100, 100, 3), WHITE, np.uint8)
    cells = measure_cells(image, Cells(mask, mask > 0))
    assert [cell.at_border for cell in cells] == [True, False]
    found = summarize_cells(cells)
    assert (found.count, found.whole, found.area) == (2, 1, 1600)


def test_medians_of_no_cells_are_missing() -> None:
    found = summarize_cells([])
    assert found.count == 0
    assert all(map(math.isnan, (found.area, found.nucleus_ratio, found.roundness, found.stain)))
    blank = np.full((64, 64, 3), WHITE, np.uint8)
    assert measure_cells(blank, find_cells(blank)) == []


def test_found_cells_measure_as_true_ones_do() -> None:
    ratios = {}
    for number, name in enumerate(CLASS_NAMES):
        pairs = []
        for index in range(4):
            where = {"slide": number + index, "index": index, "seed": SEED}
            image = draw_smear(name, **where)
            pairs.append(
                [
                    summarize_cells(measure_cells(image, cells))
                    for cells in (draw_labels(name, **where), find_cells(image))
                ]
            )
        true, found = (
            {key: np.nanmedian([getattr(p[i], key) for p in pairs]) for key in vars(pairs[0][0])}
            for i in (0, 1)
        )
        assert found["area"] == pytest.approx(true["area"], rel=0.12)
        assert found["nucleus_ratio"] == pytest.approx(true["nucleus_ratio"], abs=0.08)
        assert found["roundness"] == pytest.approx(true["roundness"], abs=0.06)
        assert found["stain"] == pytest.approx(true["stain"], rel=0.08)
        ratios[name] = found["nucleus_ratio"]
    # Pre-B has the most cytoplasm, hematogones have the least.
    assert min(ratios, key=ratios.__getitem__) == "Pre-B"
    assert max(ratios, key=ratios.__getitem__) == "Benign"


def test_a_stronger_dye_measures_as_a_stronger_stain() -> None:
    slides = range(12)
    dye = [slide_appearance(np.random.default_rng([1, SEED, s])).dyes[2, 1] for s in slides]
    stain = []
    for slide in slides:
        image = draw_smear("Pro-B", slide=slide, index=0, seed=SEED)
        stain.append(summarize_cells(measure_cells(image, find_cells(image))).stain)
    assert np.corrcoef(dye, stain)[0, 1] > 0.8


def test_an_enlarged_image_measures_as_the_image_does() -> None:
    """Labels of large images are enlarged, which must not make cells angular."""
    image = draw_smear("Pre-B", slide=1, index=2, seed=SEED, size=448)
    enlarged = cv2.resize(image, (1800, 1800), interpolation=cv2.INTER_CUBIC)
    large = np.asarray(enlarged, np.uint8)
    small, big = (summarize_cells(measure_cells(i, find_cells(i))) for i in (image, large))
    assert big.count == small.count and big.whole == small.whole
    assert big.area == pytest.approx(small.area * (1800 / 448) ** 2, rel=0.1)
    assert big.nucleus_ratio == pytest.approx(small.nucleus_ratio, abs=0.05)
    assert big.roundness == pytest.approx(small.roundness, abs=0.05)
    assert big.stain == pytest.approx(small.stain, rel=0.05)


def test_a_cell_without_a_nucleus_is_measured_whole() -> None:
    cell = ellipse(20, 20)
    image = np.full((160, 160, 3), WHITE, np.uint8)
    image[cell > 0] = round((WHITE + 1) * math.exp(-DYE)) - 1
    (found,) = measure_cells(image, Cells(cell.astype(np.int32), np.zeros((160, 160), bool)))
    assert found == replace(found, nucleus_ratio=0.0)
    assert found.stain == pytest.approx(DYE, abs=0.02)
