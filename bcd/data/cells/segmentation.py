"""Finds the white cells of a smear and their nuclei, without a network.

The dyes of a nucleus absorb green light and hardly any blue light; haemoglobin absorbs both. The
difference of the two optical densities, here called purple, is therefore high in nuclei and low in
red cells, whatever their colour, from grey-blue to pink. Its share of the density is higher also in
the cytoplasm of white cells than in red cells, though the cytoplasm is no darker than these.

A cell is a connected region whose share of purple is above that of the image's own red cells and
that contains a nucleus. Cells that touch are separated at their necks by a watershed on the
distance from their edge. Lengths are relative to the red cells of the image where these can be
measured, otherwise the image is assumed to show a field of usual size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.scale import red_cell_size
from bcd.data.quality.background import optical_density
from bcd.data.quality.red_cells import foreground

Mask = NDArray[np.bool_]
Layer = NDArray[np.float32]
Box = tuple[int, int, int, int]

_SMALLEST_SIDE = 32
_WORK = 22.0  # pixels of a red cell's diameter to which larger images are reduced
_WORK_SIDE = 224  # but not below this shorter side

# In diameters of a red cell.
_BLUR = 0.05
_OPENING = 0.35
_CLOSING = 0.2
_PEAK = 0.22  # radius of the neighbourhood of a cell's centre
_HOLE = 0.15  # area of the largest hole in a cell, in squares of that diameter
_SMALLEST = 0.55  # diameter of the smallest cell, and of the smallest nucleus

_FAINTEST, _DARKEST = 0.15, 0.5  # purple times its share, of nuclei
_TINGE = 0.07  # optical density: the faintest cytoplasm
_BETWEEN = 0.25  # limit of the share of purple, from that of red cells (0) to that of nuclei (1)
_CYTOPLASM = 0.68  # its green density over that of the nucleus, at most
_LEAST_BLUR = 0.7  # pixels
_HALF = 0.42
_PALE, _RAGGED_PALE = 0.5, 0.7  # purple of a smudge over that of the image's nuclei, at most
_RAGGED = 0.95
_NECK = 0.92  # width of a neck over that of the narrower cell above which cells are one


@dataclass(frozen=True)
class Cells:
    """The white cells of an image.

    Attributes:
        labels: Number of the cell at each pixel from 1, nucleus and cytoplasm; 0 where there is
            none; (height, width) int32.
        nuclei: Whether a pixel belongs to the nucleus of its cell, (height, width).
    """

    labels: NDArray[np.int32]
    nuclei: Mask

    @cached_property
    def count(self) -> int:
        """Number of cells."""
        return int(self.labels.max(initial=0))

    @property
    def mask(self) -> Mask:
        """Pixels of any cell, (height, width)."""
        return self.labels > 0

    @cached_property
    def boxes(self) -> list[Box]:
        """Of each cell left, top, right and bottom in pixels; right and bottom are exclusive."""
        found = []
        for number in range(1, self.count + 1):
            x, y, w, h = cv2.boundingRect((self.labels == number).astype(np.uint8))
            found.append((x, y, x + w, y + h))
        return found

    @cached_property
    def centres(self) -> list[tuple[float, float]]:
        """Of each cell the mean x and y of its pixels."""
        y, x = np.nonzero(self.labels)
        owner = self.labels[y, x]
        sizes = np.maximum(np.bincount(owner, minlength=self.count + 1), 1)
        across, down = (np.bincount(owner, p, self.count + 1) / sizes for p in (x, y))
        return list(zip(across[1:].tolist(), down[1:].tolist(), strict=True))


def find_cells(image: NDArray[np.uint8]) -> Cells:
    """Finds the white cells of an image; the same image always gives the same cells.

    Args:
        image: RGB, (height, width, 3), both sides at least 32 pixels.

    Returns:
        The cells, numbered from top to bottom; none if nothing is as purple as a nucleus.

    Raises:
        ValueError: The image has another shape or type.
    """
    height, width = image.shape[:2]
    if image.dtype != np.uint8 or image.shape[2:] != (3,) or min(height, width) < _SMALLEST_SIDE:
        raise ValueError(
            f"find_cells needs RGB of type uint8 with sides of {_SMALLEST_SIDE} or more, "
            f"not {image.dtype} {image.shape}"
        )
    red = red_cell_size(image)
    factor = min(1.0, max(_WORK / red, _WORK_SIDE / min(height, width)))
    if factor == 1:
        return _find(image, red)
    size = round(width * factor), round(height * factor)
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _enlarge(_find(small, red * factor), height, width)


def _find(image: NDArray[np.uint8], red: float) -> Cells:
    """The cells of an image whose red cells have the diameter `red`."""
    density = optical_density(image)
    depth: Any = cv2.GaussianBlur(density.max(axis=2), (0, 0), _blur(red))
    stained = _stained(depth, red)
    colour: Any = cv2.GaussianBlur(density, (0, 0), max(_BLUR * red, _LEAST_BLUR))
    purple = colour[..., 1] - colour[..., 2]
    share = purple / np.maximum(colour.max(axis=2), _TINGE)
    dark = _nuclear(purple * share, stained)
    if not dark.any():
        return Cells(np.zeros(stained.shape, np.int32), dark)
    body = _bodies(purple, share, stained, dark, red)
    labels = _keep(_separate(body, red), dark, red)
    labels = _round_off(labels, stained)
    nuclei = _nuclei(labels, colour[..., 1], red)
    labels = _drop_smudges(labels, nuclei, purple)
    return Cells(labels, nuclei & (labels > 0))


def _blur(red: float) -> float:
    """Blur of what shows the edge of a cell, in pixels: no more than the image has itself."""
    return min(max(_BLUR * red, _LEAST_BLUR), 1.2)


def _stained(depth: Layer, red: float) -> Mask:
    """Pixels of cells of any kind, up to half the height of their edge.

    A fixed threshold would be far outside a dark cell whose edge is blurred.
    """
    side = 2 * round(2 * _blur(red)) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    mask = foreground(depth)
    edge = (cv2.erode(mask, element) == 0) & (depth < _HALF * cv2.dilate(depth, element))
    return np.asarray((mask > 0) & ~edge, bool)


def _nuclear(nuclear: Layer, stained: Mask) -> Mask:
    """Pixels of nuclei, by Otsu's threshold among what is stained.

    Very dark nuclei count as others do, or the threshold would be between them and pale ones.
    """
    limit = max(_otsu(nuclear[stained], _DARKEST), _FAINTEST)
    return np.asarray(stained & (nuclear > limit), bool)


def _otsu(values: Layer, top: float) -> float:
    """Otsu's threshold of values between 0 and `top`; 0 without values."""
    if not values.size:
        return 0.0
    levels: Any = np.clip(values * (255 / top), 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return float(limit) * top / 255


def _bodies(purple: Layer, share: Layer, stained: Mask, dark: Mask, red: float) -> Mask:
    """Pixels of white cells: their share of purple is higher than that of red cells."""
    others = stained & ~dark & (purple > 0)
    nuclear = float(np.median(share[dark]))
    usual = float(np.median(share[others])) if others.any() else nuclear / 2
    limit = usual + _BETWEEN * max(nuclear - usual, 0)
    body = (stained & (share > limit) & (purple > _TINGE)) | dark
    opened = _morph(body, cv2.MORPH_OPEN, _OPENING * red)
    return _fill_holes(_morph(opened, cv2.MORPH_CLOSE, _CLOSING * red), red)


def _morph(mask: Mask, operation: int, diameter: float) -> Mask:
    side = 2 * round(diameter / 2) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), operation, element) > 0, bool)


def _fill_holes(mask: Mask, red: float) -> Mask:
    """Fills what is smaller than a gap between cells, such as nucleoli and vacuoles."""
    filled = mask.astype(np.uint8)
    contours, hierarchy = cv2.findContours(filled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (*_, parent) in zip(contours, hierarchy[0] if contours else (), strict=True):
        if parent >= 0 and cv2.contourArea(contour) < _HOLE * red**2:
            cv2.drawContours(filled, [contour], 0, 1, cv2.FILLED)
    return filled > 0


def _separate(body: Mask, red: float) -> NDArray[np.int32]:
    """Labels of the cells, divided at their necks."""
    from skimage.segmentation import watershed

    padded = np.pad(body.astype(np.uint8), 1, mode="edge")
    distance: Any = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    distance = cv2.GaussianBlur(distance, (0, 0), max(0.04 * red, 0.5))
    side = 2 * round(_PEAK * red) + 1
    around = cv2.dilate(distance, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    peaks = body & (distance >= around)
    _, markers = cv2.connectedComponents(peaks.astype(np.uint8))
    divide: Any = watershed
    labels = divide(-distance, markers, mask=body)
    return _merge(np.asarray(labels, np.int32), np.asarray(distance, np.float32))


def _merge(labels: NDArray[np.int32], distance: Layer) -> NDArray[np.int32]:
    """Joins parts that are connected by a neck nearly as wide as the narrower of them."""
    count = int(labels.max(initial=0))
    widths = np.zeros(count + 1, np.float32)
    np.maximum.at(widths, labels.ravel(), distance.ravel())
    necks: dict[tuple[int, int], float] = {}
    for axis in (0, 1):
        one, other = (np.take(labels, r, axis) for r in _neighbours(labels.shape[axis]))
        low = np.minimum(*(np.take(distance, r, axis) for r in _neighbours(labels.shape[axis])))
        touching = (one != other) & (one > 0) & (other > 0)
        for a, b, neck in zip(one[touching], other[touching], low[touching], strict=True):
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
    return np.array([root(number) for number in range(count + 1)], np.int32)[labels]


def _neighbours(length: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    return np.arange(length - 1), np.arange(1, length)


def _keep(labels: NDArray[np.int32], dark: Mask, red: float) -> NDArray[np.int32]:
    """Keeps cells that are large enough and have a nucleus, and numbers them."""
    least = math.pi / 4 * (_SMALLEST * red) ** 2
    areas = np.bincount(labels.ravel())
    cores = np.bincount(labels[dark], minlength=len(areas))
    kept = (areas >= least) & (cores >= 0.5 * least)
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(np.int32)[labels]


def _window(labels: NDArray[np.int32], number: int) -> tuple[slice, slice]:
    x, y, w, h = cv2.boundingRect((labels == number).astype(np.uint8))
    return slice(y, y + h), slice(x, x + w)


def _round_off(labels: NDArray[np.int32], stained: Mask) -> NDArray[np.int32]:
    """Extends each cell to what is stained within its convex hull."""
    found = labels.copy()
    for number in range(1, int(labels.max(initial=0)) + 1):
        window = _window(labels, number)
        cell = (labels[window] == number).astype(np.uint8)
        y, x = np.nonzero(cell)
        hull = cv2.convexHull(np.stack([x, y], axis=-1))
        cv2.fillConvexPoly(cell, hull, 1)
        found[window][(cell > 0) & stained[window] & (labels[window] == 0)] = number
    return found


def _drop_smudges(labels: NDArray[np.int32], nuclei: Mask, purple: Layer) -> NDArray[np.int32]:
    """Leaves out remains of burst cells: paler than the image's other nuclei and ragged."""
    count = int(labels.max(initial=0))
    depths, solidities = np.zeros(count + 1), np.zeros(count + 1)
    for number in range(1, count + 1):
        window = _window(labels, number)
        cell = labels[window] == number
        core = cell & nuclei[window]
        depths[number] = np.median(purple[window][core if core.any() else cell])
        y, x = np.nonzero(cell)
        hull = cv2.contourArea(cv2.convexHull(np.stack([x, y], axis=-1)))
        solidities[number] = cell.sum() / max(hull, 1.0)
    usual = np.median(depths[1:]) if count else 0.0
    kept = (depths > _PALE * usual) & ((depths > _RAGGED_PALE * usual) | (solidities > _RAGGED))
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(np.int32)[labels]


def _nuclei(labels: NDArray[np.int32], green: Layer, red: float) -> Mask:
    """The nucleus of each cell: what is dark in green, without holes."""
    nuclei = np.zeros(labels.shape, bool)
    for number in range(1, int(labels.max(initial=0)) + 1):
        window = _window(labels, number)
        cell = labels[window] == number
        density = green[window]
        limit = _otsu(density[cell], 2.5)
        # A cell without visible cytoplasm has only chromatin to divide
        limit = min(limit, _CYTOPLASM * float(np.median(density[cell & (density > limit)])))
        core = _morph(cell & (density > limit), cv2.MORPH_OPEN, _CLOSING * red)
        nuclei[window] |= cell & _fill_holes(_morph(core, cv2.MORPH_CLOSE, _CLOSING * red), red)
    return nuclei


def _enlarge(cells: Cells, height: int, width: int) -> Cells:
    labels: Any = cv2.resize(
        cells.labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST
    )
    nuclei: Any = cv2.resize(
        cells.nuclei.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return Cells(labels.astype(np.int32), nuclei > 0)
