"""Draws the outlines of white cells and their nuclei, for the eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.segmentation import Cells

Pixels = NDArray[np.uint8]

TILE = 448
"""Longer side of an image on a sheet, in pixels."""

_CELL, _NUCLEUS = (0, 120, 0), (255, 210, 0)  # RGB; they differ in lightness too
_COLUMNS = 6
_GAP = 4


def draw_outlines(image: Pixels, cells: Cells) -> Pixels:
    """Draws the outline of each cell in green and of each nucleus in yellow.

    Args:
        image: RGB, (height, width, 3); not modified.
        cells: Its white cells.

    Returns:
        RGB of the same scene whose longer side has `TILE` pixels.
    """
    height, width = cells.labels.shape
    factor = TILE / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    drawn: Any = cv2.resize(image, size, interpolation=way)
    labels, nuclei = cells.labels, cells.nuclei
    if factor < 1:
        labels, nuclei = (_sampled(layer, size) for layer in (labels, nuclei))
    for number in range(1, cells.count + 1):
        cell = labels == number
        for mask, colour in ((cell, _CELL), (cell & (nuclei > 0), _NUCLEUS)):
            large = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
            inside = (np.asarray(large) > 127).astype(np.uint8)
            contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, contours, -1, colour, 1)
    return np.asarray(drawn, np.uint8)


def _sampled(layer: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    sampled = cv2.resize(layer.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(sampled)


def make_sheet(tiles: Sequence[Pixels]) -> Pixels:
    """Arranges images in rows on white.

    Args:
        tiles: RGB images, of which no side has more than `TILE` pixels; at least one.
    """
    columns = min(_COLUMNS, len(tiles))
    rows, step = math.ceil(len(tiles) / columns), TILE + _GAP
    sheet = np.full((rows * step - _GAP, columns * step - _GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * step, number % columns * step
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
