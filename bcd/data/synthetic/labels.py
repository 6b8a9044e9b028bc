"""Where the white cells of a generated smear truly lie.

An image draws its white cells before anything else, so that drawing them once more with the same
random generator gives their outlines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.morphology import renumber
from bcd.data.cells.segmentation import Cells
from bcd.data.synthetic.drawing import fill, white_cells
from bcd.data.synthetic.smears import MORPHOLOGIES, random_of

LEAST_VISIBLE = 0.25
"""Share of a cell's area below which it is no cell of the image."""

_HALF = 80  # `fill` draws 160 inside an outline, less at its edge


def draw_labels(
    class_name: str, *, slide: int, index: int, seed: int = 0, size: int = 224
) -> Cells:
    """Draws where the white cells of the image lie that `draw_smear` draws for the same arguments.

    A pixel belongs to the cell that was drawn last over it. A cell that is hidden by others, or
    lies outside the image, except for less than `LEAST_VISIBLE` of its area is left out.

    Args:
        class_name: One of `CLASS_NAMES`.
        slide: Slide that it lies on, from 0.
        index: Number of the image, from 0.
        seed: Seed of slides and images.
        size: Side in pixels.

    Returns:
        The cells in the order in which they were drawn, and their nuclei.

    Raises:
        BcdError: As in `draw_smear`.
    """
    rng = random_of(class_name, slide, index, seed, size)
    outlines = white_cells(rng, size, MORPHOLOGIES[class_name])[3]
    labels = np.zeros((size, size), np.int32)
    nuclei = np.zeros((size, size), bool)
    for number, (outer, inner) in enumerate(outlines, start=1):
        cell = _inside(outer, size)
        labels[cell] = number
        nuclei[cell] = _inside(inner, size)[cell]
    least = [LEAST_VISIBLE * _area(outer) for outer, _ in outlines]
    visible = np.bincount(labels.ravel(), minlength=len(outlines) + 1) >= [0.0, *least]
    labels = renumber(labels, visible)
    return Cells(labels, nuclei & (labels > 0))


def _inside(outline: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    canvas = np.zeros((size, size), np.uint8)
    fill(canvas, outline, 1.0)
    return canvas > _HALF


def _area(outline: NDArray[np.float64]) -> float:
    """By the shoelace formula."""
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
