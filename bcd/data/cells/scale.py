"""The scale of an image, from its red cells."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.morphology import fill_holes
from bcd.data.quality.background import largest
from bcd.data.quality.red_cells import diameter_of, foreground

RED_CELL = 7.5 / 84
"""Usual diameter of a red cell, share of the shorter side of a field."""

_TRUSTED = (0.4, 5.0)  # diameters over the usual one outside which nothing was measured
_MAGNIFIED = 1.8  # width of what is stained over the usual diameter of a red cell
_NARROWEST = 2.5  # pixels from the edge to the middle of an object
_RANK = 0.75  # of the widths of all objects; narrow ones are platelets and broken rings


def red_cell_size(density: NDArray[np.float32]) -> float:
    """Estimates the diameter of a red cell in pixels.

    Single round red cells are measured where there are enough of them. Otherwise the image is
    assumed to show a field of usual size, unless what is stained is so wide that the image must be
    magnified; crowded cells form wide clumps too, so that lesser widths say little.

    Args:
        density: Optical density of an image, (height, width, 3).
    """
    mask = foreground(largest(density))
    usual = RED_CELL * min(mask.shape)
    lowest, highest = (limit * usual for limit in _TRUSTED)
    measured = diameter_of(density, mask)
    if lowest <= measured <= highest:  # false for NaN
        return measured
    width = _usual_width(mask, usual)
    return width if _MAGNIFIED * usual <= width <= highest else usual


def _usual_width(mask: NDArray[np.uint8], usual: float) -> float:
    """Diameter of the usual circle inscribed in the parts of a mask; NaN if there are none."""
    pale = math.pi / 4 * usual**2  # larger holes are background between cells
    filled = fill_holes(mask > 0, pale).astype(np.uint8)
    distance: Any = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    distance = cv2.GaussianBlur(distance, (0, 0), 1)
    highest = cv2.dilate(distance, np.ones((9, 9), np.uint8))
    peaks = distance[(distance >= highest) & (distance > _NARROWEST) & (distance < max(mask.shape))]
    return 2 * float(np.quantile(peaks, _RANK)) if peaks.size else float("nan")
