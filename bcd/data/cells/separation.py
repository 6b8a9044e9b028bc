"""Separates white cells that touch."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from bcd.data.cells.morphology import Labels, Layer, Mask, convex_hull, disc, renumber

# In diameters of a red cell.
_PEAK = 0.22  # radius of the neighbourhood of a cell's centre
_SMALLEST = 0.56  # diameter of the smallest cell
_PART = 0.75  # area of the smallest part that may be a cell of its own, in squares of it
_CONVEX = 0.92  # area of a cell over that of its convex hull, at least
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
    return _merge(np.asarray(labels, np.int32), np.asarray(distance, np.float32), red)


def _merge(labels: Labels, distance: Layer, red: float) -> Labels:
    """Joins parts that are connected by a neck nearly as wide as the narrower of them."""
    count = int(labels.max(initial=0))
    labels, inside = labels.copy(), labels > 0
    widths = np.zeros(count + 1, np.float32)
    np.maximum.at(widths, labels[inside], distance[inside])
    owner = list(range(count + 1))

    def root(number: int) -> int:
        while owner[number] != number:
            number = owner[number]
        return number

    least = _PART * red**2
    necks = _necks(labels, distance)
    for (a, b), neck in sorted(necks.items(), key=lambda item: (-item[1], item[0])):
        a, b = root(a), root(b)
        if a != b and neck >= _NECK * min(widths[a], widths[b]) and _one(labels, a, b, least):
            labels[labels == b] = a
            owner[b] = a
            widths[a] = max(widths[a], widths[b])
    return renumber(labels, np.array([root(number) == number for number in range(count + 1)]))


def _necks(labels: Labels, distance: Layer) -> dict[tuple[int, int], float]:
    """Of each two parts that touch the largest distance from the edge at their common border."""
    found: dict[tuple[int, int], float] = {}
    every, but_first, but_last = slice(None), slice(1, None), slice(-1)
    for one, other in (
        ((every, but_first), (every, but_last)),
        ((but_first, every), (but_last, every)),
    ):
        first, second = labels[one], labels[other]
        touching = (first != second) & (first > 0) & (second > 0)
        low = np.minimum(distance[one], distance[other])[touching]
        for a, b, neck in zip(first[touching], second[touching], low, strict=True):
            pair = (int(min(a, b)), int(max(a, b)))
            found[pair] = max(found.get(pair, 0.0), float(neck))
    return found


def _one(labels: Labels, a: int, b: int, least: float) -> bool:
    """Whether two parts form one cell by their shape: one is small, or together they are convex."""
    one, other = labels == a, labels == b
    if min(one.sum(), other.sum()) < least:
        return True
    union = one | other
    return bool(union.sum() >= _CONVEX * convex_hull(union).sum())


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
