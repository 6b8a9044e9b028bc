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

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.morphology import (
    Labels,
    Layer,
    Mask,
    disc,
    fill_holes,
    morph,
    otsu,
    windows,
)
from bcd.data.cells.refinement import drop_smudges, find_nuclei, round_off
from bcd.data.cells.scale import red_cell_size
from bcd.data.cells.separation import keep_cells, separate
from bcd.data.quality.background import largest, optical_density
from bcd.data.quality.red_cells import foreground

Box = tuple[int, int, int, int]

SMALLEST_SIDE = 32
"""Least side of an image, in pixels."""

MOST_SIDE = 512
"""Pixels of the shorter side to which larger images are reduced."""

_WORK = 22.0  # pixels of a red cell's diameter to which larger images are reduced
_WORK_SIDE = 224  # but not below this shorter side

# In diameters of a red cell.
_BLUR = 0.05
_OPENING = 0.35
_CLOSING = 0.1
_HOLE = 0.06  # area of the largest hole, in squares of it; gaps between cells are larger

_FAINTEST, _DARKEST = 0.15, 0.5  # purple times its share, of nuclei
_TINGE = 0.07  # optical density: the faintest cytoplasm
_BETWEEN = 0.25  # limit of the share of purple, from that of red cells (0) to that of nuclei (1)
_LEAST_BLUR = 0.7  # pixels
_HALF = 0.42  # depth of an edge over that of the cell within it, up to which it is outside


@dataclass(frozen=True)
class Cells:
    """The white cells of an image.

    Attributes:
        labels: Number of the cell at each pixel from 1, nucleus and cytoplasm; 0 where there is
            none; (height, width) int32.
        nuclei: Whether a pixel belongs to the nucleus of its cell, (height, width).
    """

    labels: Labels
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
        places = windows(self.labels)
        return [(across.start, down.start, across.stop, down.stop) for down, across in places]

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
        The cells; none if nothing is as purple as a nucleus.

    Raises:
        ValueError: The image has another shape or type.
    """
    height, width = image.shape[:2]
    if image.dtype != np.uint8 or image.shape[2:] != (3,) or min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"find_cells needs RGB of type uint8 with sides of {SMALLEST_SIDE} or more, "
            f"not {image.dtype} {image.shape}"
        )
    shorter = min(height, width)
    density = optical_density(reduce(image, MOST_SIDE / shorter))
    red = red_cell_size(density)
    side = min(density.shape[:2])
    factor = max(_WORK / red, _WORK_SIDE / side)
    if factor < 1:
        density = optical_density(reduce(image, factor * side / shorter))
        red *= factor
    found = _find(density, red)
    return found if density.shape == image.shape else _enlarge(found, height, width)


def reduce(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Reduces an image by area averages; returns the image itself from a factor of 1 on."""
    if factor >= 1:
        return image
    size = [round(side * factor) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _find(density: Layer, red: float) -> Cells:
    """The cells of an optical density whose red cells have the diameter `red`."""
    depth: Any = cv2.GaussianBlur(largest(density), (0, 0), _blur(red))
    stained = _stained(depth, red)
    colour: Any = cv2.GaussianBlur(density, (0, 0), max(_BLUR * red, _LEAST_BLUR))
    purple = colour[..., 1] - colour[..., 2]
    share = purple / np.maximum(largest(colour), _TINGE)
    dark = _nuclear(purple * share, stained)
    if not dark.any():
        return Cells(np.zeros(stained.shape, np.int32), dark)
    body = _bodies(purple, share, stained, dark, red)
    labels = keep_cells(separate(body, red), dark, red)
    labels = round_off(drop_smudges(labels, dark, purple), stained)
    return Cells(labels, find_nuclei(labels, colour[..., 1], red))


def _blur(red: float) -> float:
    """Blur of what shows the edge of a cell, in pixels: no more than the image has itself."""
    return min(max(_BLUR * red, _LEAST_BLUR), 1.2)


def _stained(depth: Layer, red: float) -> Mask:
    """Pixels of cells of any kind, up to half the height of their edge.

    A fixed threshold would be far outside a dark cell whose edge is blurred.
    """
    element = disc(4 * _blur(red))
    mask = foreground(depth)
    edge = (cv2.erode(mask, element) == 0) & (depth < _HALF * cv2.dilate(depth, element))
    return np.asarray((mask > 0) & ~edge, bool)


def _nuclear(nuclear: Layer, stained: Mask) -> Mask:
    """Pixels of nuclei, by Otsu's threshold among what is stained.

    Very dark nuclei count as others do, or the threshold would be between them and pale ones.
    """
    limit = max(otsu(nuclear[stained], _DARKEST), _FAINTEST)
    return np.asarray(stained & (nuclear > limit), bool)


def _bodies(purple: Layer, share: Layer, stained: Mask, dark: Mask, red: float) -> Mask:
    """Pixels of white cells: their share of purple is higher than that of red cells."""
    others = stained & ~dark & (purple > 0)
    nuclear = float(np.median(share[dark]))
    usual = float(np.median(share[others])) if others.any() else nuclear / 2
    limit = usual + _BETWEEN * max(nuclear - usual, 0)
    body = (stained & (share > limit) & (purple > _TINGE)) | dark
    opened = morph(body, cv2.MORPH_OPEN, _OPENING * red)
    return fill_holes(morph(opened, cv2.MORPH_CLOSE, _CLOSING * red), _HOLE * red**2)


def _enlarge(cells: Cells, height: int, width: int) -> Cells:
    labels: Any = cv2.resize(
        cells.labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST
    )
    nuclei: Any = cv2.resize(
        cells.nuclei.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return Cells(labels.astype(np.int32), nuclei > 0)
