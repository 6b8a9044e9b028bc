"""The scale of an image, from its red cells."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.quality.background import optical_density
from bcd.data.quality.red_cells import diameter_of, foreground

RED_CELL = 7.5 / 84
"""Usual diameter of a red cell, share of the shorter side of a field."""

_LARGEST_SIDE = 512  # pixels of the shorter side to which an image is reduced for measuring
_TRUSTED = (0.4, 5.0)  # diameters over the usual one outside which nothing was measured
_NARROWEST = 2.5  # pixels from the edge to the middle of an object
_RANK = 0.75  # of the widths of all objects; narrow ones are platelets and broken rings


def red_cell_size(image: NDArray[np.uint8]) -> float:
    """Estimates the diameter of a red cell in pixels.

    Single round red cells are measured where there are enough of them. Otherwise it is the usual
    width of what is stained: of clumps, where they are no more than one cell wide. If that is
    implausible too, the image is assumed to show a field of usual size.

    Args:
        image: RGB, (height, width, 3).
    """
    shorter = min(image.shape[:2])
    factor = min(1.0, _LARGEST_SIDE / shorter)
    if factor < 1:
        small: Any = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.uint8)
    density = optical_density(image)
    mask = foreground(density.max(axis=2))
    usual = RED_CELL * shorter
    lowest, highest = (limit * usual for limit in _TRUSTED)
    for measured in (diameter_of(density, mask) / factor, _usual_width(mask) / factor):
        if lowest <= measured <= highest:  # false for NaN
            return measured
    return usual


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
