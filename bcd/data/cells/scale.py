"""The scale of an image, from its red cells."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.quality.background import largest
from bcd.data.quality.red_cells import diameter_of, foreground

RED_CELL = 7.5 / 84
"""Usual diameter of a red cell, share of the shorter side of a field."""

_TRUSTED = (0.4, 5.0)  # diameters over the usual one outside which nothing was measured
_NARROWEST = 2.5  # pixels from the edge to the middle of an object
_RANK = 0.75  # of the widths of all objects; narrow ones are platelets and broken rings


def red_cell_size(density: NDArray[np.float32]) -> float:
    """Estimates the diameter of a red cell in pixels.

    Single round red cells are measured where there are enough of them. Otherwise it is the usual
    width of what is stained: of clumps, where they are no more than one cell wide. If that is
    implausible too, the image is assumed to show a field of usual size.

    Args:
        density: Optical density of an image, (height, width, 3).
    """
    mask = foreground(largest(density))
    usual = RED_CELL * min(mask.shape)
    lowest, highest = (limit * usual for limit in _TRUSTED)
    measured = diameter_of(density, mask)
    if lowest <= measured <= highest:  # false for NaN
        return measured
    width = _usual_width(mask)
    return width if lowest <= width <= highest else usual


def _usual_width(mask: NDArray[np.uint8]) -> float:
    """Diameter of the usual circle inscribed in the parts of a mask; NaN if there are none."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    distance: Any = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    distance = cv2.GaussianBlur(distance, (0, 0), 1)
    highest = cv2.dilate(distance, np.ones((9, 9), np.uint8))
    peaks = distance[(distance >= highest) & (distance > _NARROWEST)]
    return 2 * float(np.quantile(peaks, _RANK)) if peaks.size else float("nan")
