"""Separates white cells that touch."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from bcd.data.cells.morphology import Labels, Layer, Mask, disc, renumber

# In diameters of a red cell.
_PEAK = 0.22  # radius of the neighbourhood of a cell's centre
_SMALLEST = 0.6  # diameter of the smallest cell
_NECK = 0.92  # width of a neck over that of the narrower cell above which cells are one


def separate(body: Mask, red: float) -> Labels:
    """Divides the pixels of white cells into cells, at their necks.

    Args:
        body: Pixels of white cells, (height, width).
        red: Diameter of a red cell in pixels.

    Returns:
        The number of the cell at each pixel; 0 outside of cells.
    """
    from skimage.segmentation import watershed

    padded = np.pad(body.astype(np.uint8), 1, mode="edge")
    distance: Any = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    distance = cv2.GaussianBlur(distance, (0, 0), max(0.04 * red, 0.5))
    peaks = body & (distance >= cv2.dilate(distance, disc(2 * _PEAK * red)))
    _, markers = cv2.connectedComponents(peaks.astype(np.uint8))
    divide: Any = watershed
    labels = divide(-distance, markers, mask=body)
    return _merge(np.asarray(labels, np.int32), np.asarray(distance, np.float32))


def _merge(labels: Labels, distance: Layer) -> Labels:
    """Joins parts that are connected by a neck nearly as wide as the narrower of them."""
    count = int(labels.max(initial=0))
    widths = np.zeros(count + 1, np.float32)
    inside = labels > 0
    np.maximum.at(widths, labels[inside], distance[inside])
    necks: dict[tuple[int, int], float] = {}
    for one, other in (
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
        ((slice(1, None), slice(None)), (slice(-1), slice(None))),
    ):
        touching = inside[one] & inside[other] & (labels[one] != labels[other])
        low = np.minimum(distance[one][touching], distance[other][touching])
        pairs = zip(labels[one][touching], labels[other][touching], low, strict=True)
        for a, b, neck in pairs:
            pair = (int(min(a, b)), int(max(a, b)))
            necks[pair] = max(necks.get(pair, 0.0), float(neck))
    owner = list(range(count + 1))

    def root(number: int) -> int:
        while owner[number] != number:
            number = owner[number]
        return number

    for (a, b), neck in sorted(necks.items(), key=lambda item: (-item[1], item[0])):
        a, b = root(a), root(b)
        if a != b and neck >= _NECK * min(widths[a], widths[b]):
            owner[b] = a
            widths[a] = max(widths[a], widths[b])
    _, numbers = np.unique([root(number) for number in range(count + 1)], return_inverse=True)
    return numbers.astype(np.int32)[labels]


def keep_cells(labels: Labels, dark: Mask, red: float) -> Labels:
    """Keeps the cells that are large enough and have a nucleus, and numbers them.

    Args:
        labels: Of the cells, (height, width).
        dark: Pixels of nuclei, (height, width).
        red: Diameter of a red cell in pixels.
    """
    least = math.pi / 4 * (_SMALLEST * red) ** 2
    inside = labels > 0
    areas = np.bincount(labels[inside], minlength=1)
    cores = np.bincount(labels[dark], minlength=len(areas))
    kept = (areas >= least) & (cores >= 0.5 * least)
    return renumber(labels, kept)
