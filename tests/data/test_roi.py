"""Regions of interest: white cells alone, and crops of white cells."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.config.input_views import CELL_SIDE, MOST_CELLS, InputView, parse_views
from bcd.data.cells.segmentation import find_cells
from bcd.data.input_views import (
    cut_rois,
    definition,
    make_views,
    pack,
    packed_shape,
    plain_pixels,
)
from bcd.data.quality.red_cells import red_cell_diameter
from bcd.data.roi import cell_boxes, cut_cells, paint_over
from bcd.data.synthetic.smears import draw_smear
from bcd.models.cells import unpack_cells

SIDE = 160


@cache
def smear(class_name: str = "Pre-B", index: int = 0) -> NDArray[np.uint8]:
    return draw_smear(class_name, slide=1, index=index, size=SIDE)


def blank() -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), 235, np.uint8)


def cells_view() -> InputView:
    (view,) = parse_views(["plain"], SIDE, "cells")
    return view


@pytest.mark.parametrize("class_name", ["Benign", "Pro-B"])
def test_what_is_not_wanted_is_painted_over(class_name: str) -> None:
    image, cells = smear(class_name), find_cells(smear(class_name)).labels > 0
    assert 0.02 < cells.mean() < 0.6
    kept, rest = paint_over(image, True), paint_over(image, False)
    assert (kept[cells] == image[cells]).all()
    assert (rest[cells] == 230).all()
    # Each pixel is in one of the two; a narrow margin around cells counts as theirs.
    one_of = (kept == image).all(axis=2) | (rest == image).all(axis=2)
    assert one_of.all()
    painted = (kept == 230).all(axis=2)
    assert (1 - cells.mean()) * 0.6 < painted.mean() <= 1 - cells.mean()
    assert (image == draw_smear(class_name, slide=1, index=0, size=SIDE)).all()  # not modified


def test_without_white_cells_nothing_is_left_of_a_mask() -> None:
    assert (paint_over(blank(), True) == 230).all()
    assert (paint_over(blank(), False) == blank()).all()


def test_windows_have_one_size_lie_inside_and_have_a_cell_in_them() -> None:
    for index in range(4):
        image = smear("Pro-B", index)
        labels = find_cells(image).labels
        areas: NDArray[np.int64] = np.bincount(labels.ravel())[1:]
        boxes = cell_boxes(image)
        assert 1 < len(boxes) == min(int((areas > 0).sum()), MOST_CELLS)
        shown = []
        for top, left, side in boxes:
            assert side == round(64 / 224 * SIDE)
            assert 0 <= top <= SIDE - side
            assert 0 <= left <= SIDE - side
            inside = labels[top : top + side, left : left + side]
            shown.append(np.bincount(inside.ravel(), minlength=len(areas) + 1)[1:])
        # Window n is that of the nth largest cell, most of which it shows.
        for place, cell in enumerate(np.argsort(-areas, kind="stable")[:MOST_CELLS]):
            assert shown[place][cell] > 0.6 * areas[cell], (index, place)


def test_windows_follow_the_magnification() -> None:
    image = smear("Pro-B", 1)
    middle = slice(SIDE // 4, SIDE - SIDE // 4)
    magnified = cv2.resize(image[middle, middle], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    usual, larger = (red_cell_diameter(np.asarray(one)) for one in (image, magnified))
    assert larger / usual == pytest.approx(2, rel=0.25)
    side, scaled = (cell_boxes(np.asarray(one))[0][2] for one in (image, magnified))
    assert side == round(64 / 224 * SIDE)
    assert scaled / side == pytest.approx(larger / (16 / 224 * SIDE), rel=0.05)


def test_packed_cells_are_unpacked_with_what_is_missing() -> None:
    image, view = smear(), cells_view()
    (packed,) = make_views(cut_rois({SIDE: image}, [view]), [view])
    assert packed.shape == packed_shape([view]) == (3 * (SIDE**2 + MOST_CELLS * CELL_SIDE**2),)
    crops, present = unpack_cells(packed[None], view)
    expected = cut_cells(image, CELL_SIDE)
    assert present.sum() == len(expected) > 1
    assert present[0, : len(expected)].all()
    np.testing.assert_array_equal(crops[present], expected)
    seen = plain_pixels(pack([packed]), [view])
    np.testing.assert_array_equal(seen, image)
    (nothing,) = make_views(cut_rois({SIDE: blank()}, [view]), [view])
    assert not unpack_cells(nothing[None], view)[1].any()


def test_all_cells_of_an_image_are_augmented_and_normalized() -> None:
    image = smear()
    (view,) = parse_views(["grey"], SIDE, "cells")
    cut = cut_rois({SIDE: image}, [view])
    (packed,) = make_views(cut, [view], lambda pixels: pixels[:, ::-1])
    crops, present = unpack_cells(packed[None], view)
    for crop, plain in zip(crops[present], cut_cells(image, CELL_SIDE), strict=True):
        assert (crop[..., 0] == crop[..., 1]).all()
        assert np.abs(crop[:, ::-1, 1].astype(int) - plain[..., 1]).mean() < 40
    assert (packed[: 3 * SIDE**2].reshape(SIDE, SIDE, 3) == image[:, ::-1]).all()


def test_a_region_is_part_of_the_definition_of_a_view() -> None:
    whole, mask, cells = (definition(parse_views(["plain"], 224, roi)[0])
                          for roi in ("image", "mask", "cells"))  # fmt: skip
    assert whole == {"normalization": "plain", "side": 224}
    assert mask["roi"] == "mask"
    assert (cells["roi"], cells["side"], cells["cut_from"]) == ("cells", CELL_SIDE, 224)
