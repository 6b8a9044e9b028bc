"""Regions of interest: what of an image the network gets when `data.roi` is not the whole image.

White cells are found on the resized image (`bcd.data.cells`), so that the same pixels give the same
cells everywhere. Constants are part of every checkpoint and of the keys of feature banks.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import BACKGROUND, CELLS, MASKED, MOST_CELLS, InputView

Pixels = NDArray[np.uint8]

_WINDOW = 64 / 224  # side of a cell's window, as a share of the image's
_RED_CELL = 16 / 224  # diameter of a red cell at which this is the window, as a share
# Smallest and largest diameter, relative to that, at which an image counts as magnified like the
# others. Red cells of the published images differ that much, also by errors of measurement.
_SAME_SCALE = (0.6, 1.7)
_FILL = 230  # grey level of what is painted over: about that of a smear's background
_MARGIN = 2 / 224  # kept around a cell, as a share of the image's side
_VERSION = 1  # increase it when the same image gives other cells


def roi_definition(view: InputView) -> dict[str, Any]:
    """Everything that determines the region, as plain data; empty for the whole image."""
    if view.roi in (MASKED, BACKGROUND):
        return {"roi": view.roi, "fill": _FILL, "margin": _MARGIN, "cells_version": _VERSION}
    if view.roi == CELLS:
        return {
            "roi": CELLS,
            "cut_from": view.image_side,
            "window": _WINDOW,
            "red_cell": _RED_CELL,
            "same_scale": list(_SAME_SCALE),
            "most": MOST_CELLS,
            "cells_version": _VERSION,
        }
    return {}


def paint_over(image: Pixels, keep_cells: bool) -> Pixels:
    """Paints over everything but white cells, or over white cells.

    The outlines of cells can be seen either way.

    Args:
        image: RGB, (side, side, 3); not modified.
        keep_cells: Whether cells are kept; an image without any then becomes uniform.
    """
    from bcd.data.cells.segmentation import find_cells

    kept = (find_cells(image).labels > 0).astype(np.uint8)
    margin = round(_MARGIN * len(image))
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    wide = cv2.dilate(kept, element)
    return np.where((wide[:, :, None] > 0) == keep_cells, image, np.uint8(_FILL))


def cell_boxes(image: Pixels) -> list[tuple[int, int, int]]:
    """The windows of the white cells of an image, the largest cell first.

    All windows of an image have the same size, so that cells keep their relative sizes. If red
    cells show that the image is magnified more or less than usual, it is larger or smaller in
    proportion; if they cannot be measured, the magnification is taken to be usual. A window is
    moved as far as is needed to lie inside the image.

    Args:
        image: RGB, (side, side, 3).

    Returns:
        Top row, left column and side in pixels of at most `MOST_CELLS` windows.
    """
    from bcd.data.cells.segmentation import find_cells

    labels = find_cells(image).labels
    areas: list[int] = np.bincount(labels.ravel()).tolist()
    side = _window(image)
    # Cells of equal size in the order of their labels, so that the result is the same everywhere.
    order = sorted((n for n in range(1, len(areas)) if areas[n]), key=lambda n: -areas[n])
    boxes = []
    for number in order[:MOST_CELLS]:
        centre = [float(places.mean()) for places in np.nonzero(labels == number)]
        corner = [round(place - side / 2) for place in centre]
        top, left = (min(max(place, 0), len(image) - side) for place in corner)
        boxes.append((top, left, side))
    return boxes


def _window(image: Pixels) -> int:
    """Side of the windows of an image in pixels."""
    from bcd.data.quality.red_cells import red_cell_diameter

    factor = red_cell_diameter(image) / (_RED_CELL * len(image))
    if math.isnan(factor) or _SAME_SCALE[0] <= factor <= _SAME_SCALE[1]:
        factor = 1.0
    return min(max(round(_WINDOW * len(image) * factor), 8), len(image))


def cut_cells(image: Pixels, side: int) -> list[Pixels]:
    """A crop of each white cell, enlarged to (side, side, 3); empty if no cell is found."""
    return [
        np.asarray(
            cv2.resize(
                image[top : top + own, left : left + own],
                (side, side),
                interpolation=cv2.INTER_LINEAR if side >= own else cv2.INTER_AREA,
            ),
            np.uint8,
        )
        for top, left, own in cell_boxes(image)
    ]


def pack_cells(image: Pixels, crops: list[Pixels], side: int) -> Pixels:
    """The bytes of an image followed by those of `MOST_CELLS` crops; missing ones are zeros."""
    packed = np.zeros(packed_cells(len(image), side), np.uint8)
    parts = np.concatenate([part.reshape(-1) for part in (image, *crops)])
    packed[: len(parts)] = parts
    return packed


def packed_cells(image_side: int, side: int) -> int:
    """Number of bytes that `pack_cells` returns."""
    return 3 * (image_side**2 + MOST_CELLS * side**2)
