"""Morphology of masks, and thresholds."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Layer = NDArray[np.float32]
Labels = NDArray[np.int32]


def otsu(values: Layer, top: float) -> float:
    """Otsu's threshold of values between 0 and `top`; 0 without values."""
    if not values.size:
        return 0.0
    levels: Any = np.clip(values * (255 / top), 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return float(limit) * top / 255


def morph(mask: Mask, operation: int, diameter: float) -> Mask:
    """Opens or closes a mask by a disc of a diameter in pixels."""
    return cv2.morphologyEx(mask.astype(np.uint8), operation, disc(diameter)) > 0


def disc(diameter: float) -> NDArray[np.uint8]:
    """A disc for dilations and erosions; its diameter in pixels is rounded to an odd number."""
    side = 2 * round(diameter / 2) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(element, np.uint8)


def fill_holes(mask: Mask, area: float) -> Mask:
    """Fills the holes of a mask that are smaller than an area in pixels."""
    filled = mask.astype(np.uint8)
    contours, hierarchy = cv2.findContours(filled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (*_, parent) in zip(contours, hierarchy[0] if contours else (), strict=True):
        if parent >= 0 and cv2.contourArea(contour) < area:
            cv2.drawContours(filled, [contour], 0, 1, cv2.FILLED)
    return filled > 0


def convex_hull(cell: Mask) -> Mask:
    """The convex hull of a mask."""
    filled = cell.astype(np.uint8)
    y, x = np.nonzero(cell)
    cv2.fillConvexPoly(filled, cv2.convexHull(np.stack([x, y], axis=-1)), 1)
    return filled > 0


def windows(labels: Labels) -> list[tuple[slice, slice]]:
    """Rows and columns of the box around each cell; the numbers of cells have no gaps."""
    from scipy.ndimage import find_objects

    return list(find_objects(labels))


def renumber(labels: Labels, kept: NDArray[np.bool_]) -> Labels:
    """Numbers from 1 the cells that are kept, in their order; the others become 0.

    Args:
        labels: Of the cells, (height, width).
        kept: Whether each number is kept, (largest number + 1,); that of 0 has no effect.
    """
    kept = kept & (np.arange(len(kept)) > 0)
    return np.asarray((np.cumsum(kept) * kept)[labels], np.int32)
