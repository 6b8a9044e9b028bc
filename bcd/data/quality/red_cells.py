"""Measures the size of red cells in an image, without a network.

Red cells are found as single round objects that are darker than the background. Their diameter is
that of a circle of the same area, holes included, because the pale centre of a red cell may be as
light as the background. Clumps are not separated: an object counts only if it is nearly convex and
nearly as wide as long, and lies completely inside the image. White cells are left out by their
nucleus, which absorbs more green light than a red cell does.

A large cell is cut by the border more often than a small one. Each cell therefore counts in inverse
proportion to the number of positions in which it would lie inside the image (Miles, "On the
elimination of edge effects in planar sampling", in Stochastic Geometry, Wiley 1974:228).
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.quality.background import largest, optical_density

FEWEST = 2  # red cells of an image from which it is measured

_BLUR = 0.7  # standard deviation in pixels; single pixels are noise
_FAINTEST = 0.04  # optical density below which nothing is a cell
_DARKEST = 0.6  # optical density above which a pixel does not affect the threshold
_NUCLEUS = 0.6  # optical density in green, of the darkest quarter of an object
_SMALLEST = 20  # area in pixels
_SOLIDITY = 0.9  # least share of the convex hull's area
_ASPECT = 1.35  # largest ratio of length and width
_LEVELS = 400  # of optical density 1, for Otsu's threshold


def red_cell_diameter(image: NDArray[np.uint8]) -> float:
    """Median diameter of the red cells of an image, in pixels.

    Cells count by their diameter, so that platelets and debris have little influence.

    Args:
        image: RGB, (height, width, 3).

    Returns:
        The diameter; NaN if fewer than `FEWEST` cells can be measured.
    """
    density = optical_density(image)
    return diameter_of(density, foreground(largest(density)))


def diameter_of(density: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Median diameter as `red_cell_diameter` returns it.

    Args:
        density: Optical density, (height, width, 3).
        mask: Its `foreground`, (height, width).
    """
    cells = sorted(_cells(density, mask))
    if len(cells) < FEWEST:
        return math.nan
    diameters, places = np.transpose(cells)
    weights = np.cumsum(diameters / places)
    return float(diameters[np.searchsorted(weights, weights[-1] / 2)])


def _cells(density: NDArray[np.float32], mask: NDArray[np.uint8]) -> list[tuple[float, int]]:
    """Of each red cell the diameter, and the number of places where it fits into the image."""
    height, width = density.shape[:2]
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        inside = x > 0 and y > 0 and x + w < width and y + h < height
        if not inside or not _is_round(contour):
            continue
        filled = np.zeros((h, w), np.uint8)
        cv2.drawContours(filled, [np.asarray(contour) - (x, y)], 0, 1, cv2.FILLED)
        green = density[y : y + h, x : x + w, 1][filled > 0]
        if np.quantile(green, 0.75) < _NUCLEUS:
            found.append((2 * math.sqrt(_area(contour) / math.pi), (width - w) * (height - h)))
    return found


def foreground(darkest: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels of cells, by Otsu's threshold between background and red cells.

    Args:
        darkest: Largest optical density of the channels, (height, width).

    Returns:
        1 in cells of any kind, 0 elsewhere, (height, width).
    """
    smooth = np.asarray(cv2.GaussianBlur(darkest, (0, 0), _BLUR), np.float32)
    levels = np.clip(smooth[smooth < _DARKEST] * _LEVELS, 0, 255).astype(np.uint8)
    if not len(levels):
        return np.zeros(smooth.shape, np.uint8)
    limit, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return np.asarray(smooth > max(limit / _LEVELS, _FAINTEST), np.uint8)


def _is_round(contour: Any) -> bool:
    area = cv2.contourArea(contour)
    hull = cv2.contourArea(cv2.convexHull(contour))
    if area < _SMALLEST or area < _SOLIDITY * hull:
        return False
    sides = cv2.minAreaRect(contour)[1]
    return max(sides) + 1 <= _ASPECT * (min(sides) + 1)


def _area(contour: Any) -> float:
    """Area in pixels; a contour runs through the centres of the pixels at the edge."""
    return float(cv2.contourArea(contour)) + len(contour) / 2
