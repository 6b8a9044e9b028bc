"""Brings an attribution from what a network got into the frame of the image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.matching import Match, central


def density_in_image(
    attribution: NDArray[np.float32], rows: int, columns: int, match: Match | None = None
) -> NDArray[np.float32]:
    """The density of the evidence in each pixel of an image.

    Images are stretched to a square for the network. If images of a site are matched, what the
    match cut off has no evidence, and evidence in the mirror images that it added is left out.

    Args:
        attribution: A map of `Attribution`, (side, side), not negative.
        rows: Height of the image in pixels.
        columns: Its width.
        match: How the image was matched; None for not at all.

    Returns:
        (rows, columns), with the mean 1, or 0 everywhere if no place speaks for the class.
    """
    scale = 1.0 if match is None else match.scale
    placed = np.zeros((rows, columns), np.float32)
    if scale >= 1:
        top, high = central(rows, rows / scale)
        left, wide = central(columns, columns / scale)
        placed[top : top + high, left : left + wide] = _resized(attribution, high, wide)
    else:
        first, count = central(len(attribution), len(attribution) * scale)
        inner = attribution[first : first + count, first : first + count]
        placed[:] = _resized(inner, rows, columns)
    mean = float(placed.mean(dtype=np.float64))
    return placed / np.float32(mean) if mean > 0 else placed


def _resized(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    found = cv2.resize(np.ascontiguousarray(values), (columns, rows))
    return np.asarray(np.maximum(found, 0), np.float32)
