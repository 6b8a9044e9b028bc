"""Measures of white cells, of each and of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.segmentation import MOST_SIDE, Box, Cells, reduce
from bcd.data.quality.background import optical_density

_LONGEST = 48  # pixels of the longer side of a cell at which its outline is followed
_MARGIN, _SMOOTHING = 4, 1.0  # pixels
_POINTS = 5  # of the outline, whose mean replaces the one in the middle


@dataclass(frozen=True)
class CellMeasures:
    """Measures of one white cell.

    Attributes:
        number: Of the cell in `Cells.labels`.
        box: Left, top, right and bottom in pixels; right and bottom are exclusive.
        area: Of the cell, in pixels of the image.
        nucleus_ratio: Area of the nucleus over the area of the whole cell, 0 to 1. (Divided by
            the area of the cytoplasm alone it is r / (1 - r).)
        roundness: 4 pi A / P² of the cell's area A and perimeter P: about 1 for a circle, less
            for any other shape.
        stain: Mean optical density (natural logarithm) of the nucleus in green light, against the
            fitted background; of the whole cell if it has no nucleus.
        at_border: Whether the cell touches the border of the image, which may cut it off.
    """

    number: int
    box: Box
    area: int
    nucleus_ratio: float
    roundness: float
    stain: float
    at_border: bool


@dataclass(frozen=True)
class ImageMeasures:
    """Measures of the white cells of one image.

    Area, ratio and roundness are medians over the cells that do not touch the border; stain is a
    median over all cells. They are NaN without such cells.

    Attributes:
        count: Number of cells.
        whole: Number of cells that do not touch the border.
        area: In pixels of the image.
        nucleus_ratio: Area of the nucleus over that of the cell.
        roundness: 4 pi A / P².
        stain: Optical density of the nuclei in green light.
    """

    count: int
    whole: int
    area: float
    nucleus_ratio: float
    roundness: float
    stain: float


def measure_cells(image: NDArray[np.uint8], cells: Cells) -> list[CellMeasures]:
    """Measures each white cell of an image.

    Args:
        image: RGB, (height, width, 3).
        cells: Its cells, from `find_cells`.

    Returns:
        The measures in the order of the cells' numbers.
    """
    if not cells.count:
        return []
    height, width = cells.labels.shape
    stains = _stains(image, cells)
    found = []
    for number, box in enumerate(cells.boxes, start=1):
        left, top, right, bottom = box
        place = slice(top, bottom), slice(left, right)
        cell = cells.labels[place] == number
        nucleus = cell & cells.nuclei[place]
        area = int(cell.sum())
        found.append(
            CellMeasures(
                number=number,
                box=box,
                area=area,
                nucleus_ratio=float(nucleus.sum() / area),
                roundness=_roundness(cell),
                stain=stains[number - 1],
                at_border=left == 0 or top == 0 or right == width or bottom == height,
            )
        )
    return found


def summarize_cells(cells: Sequence[CellMeasures]) -> ImageMeasures:
    """Medians over the cells of an image."""
    whole = [cell for cell in cells if not cell.at_border]
    return ImageMeasures(
        count=len(cells),
        whole=len(whole),
        area=_median([cell.area for cell in whole]),
        nucleus_ratio=_median([cell.nucleus_ratio for cell in whole]),
        roundness=_median([cell.roundness for cell in whole]),
        stain=_median([cell.stain for cell in cells]),
    )


def _stains(image: NDArray[np.uint8], cells: Cells) -> list[float]:
    """Mean green density of the nucleus of each cell, of the whole cell if it has none."""
    green = optical_density(reduce(image, MOST_SIDE / min(image.shape[:2])))[..., 1]
    nuclei = cells.labels * cells.nuclei
    cells_and_nuclei = [_fit_labels(labels, green.shape) for labels in (cells.labels, nuclei)]
    sums, sizes = (
        np.stack(
            [np.bincount(labels.ravel(), weights, cells.count + 1) for labels in cells_and_nuclei]
        )
        for weights in (green.ravel(), None)
    )
    means = sums / np.maximum(sizes, 1)
    return [float(mean) for mean in np.where(sizes[1] > 0, means[1], means[0])[1:]]


def _fit_labels(labels: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    if labels.shape == shape:
        return labels
    reduced: Any = cv2.resize(
        labels.astype(np.float32), shape[::-1], interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(reduced, np.int32)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _roundness(cell: NDArray[np.bool_]) -> float:
    """4 pi A / P², with the outline smoothed: the steps between pixels would lengthen it."""
    factor = min(1.0, _LONGEST / max(cell.shape))  # enlarged labels have larger steps
    size = [max(round(side * factor), 1) for side in cell.shape[::-1]]
    small = cv2.resize(cell.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    smooth: Any = cv2.GaussianBlur(np.pad(small, _MARGIN), (0, 0), _SMOOTHING)
    levels = np.asarray(smooth > 0.5, np.uint8)
    contours, _ = cv2.findContours(levels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 0.0
    contour = max(contours, key=cv2.contourArea)
    outline = _smooth(np.asarray(contour, np.float32)[:, 0])
    area, perimeter = cv2.contourArea(outline), cv2.arcLength(outline, True)
    return min(4 * math.pi * area / perimeter**2, 1.0) if perimeter else 0.0


def _smooth(outline: NDArray[np.float32]) -> NDArray[np.float32]:
    around = [np.roll(outline, shift, axis=0) for shift in range(-(_POINTS // 2), _POINTS // 2 + 1)]
    return np.asarray(np.mean(around, axis=0), np.float32)
