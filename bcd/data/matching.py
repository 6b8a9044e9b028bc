"""Matches images of a site to a model's training images, every image in the same way.

The factor and the colour map follow from two sets of images, those of the site and those of the
training. They are fixed before any image is read: the result for an image never depends on the
images that are predicted with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.colour import from_lab, to_bytes, to_lab
from bcd.data.reading import fit, mask_scale_bar

Pixels = NDArray[np.uint8]
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class ColourMap:
    """An affine map of colours.

    Attributes:
        space: Where it applies: `rgb` (0 to 255), `lab` (CIELAB) or `density` (logarithm of the
            RGB values plus 1, the negative optical density).
        matrix: Nine numbers: rows of a matrix by which a colour is multiplied from the left.
        offset: Three numbers that are added then.
    """

    space: str
    matrix: Numbers
    offset: Numbers

    def __call__(self, pixels: Pixels) -> Pixels:
        """Maps RGB pixels (height, width, 3)."""
        values = pixels.astype(np.float32)
        if self.space == "lab":
            values = to_lab(pixels)
        elif self.space == "density":
            values = np.log(values + 1)
        affine = np.column_stack([np.reshape(self.matrix, (3, 3)), self.offset])
        mapped = np.asarray(cv2.transform(values, affine), np.float32)
        if self.space == "lab":
            mapped = from_lab(mapped)
        elif self.space == "density":
            mapped = np.exp(np.minimum(mapped, np.log(np.float32(256)))) - 1
        return to_bytes(mapped)


@dataclass(frozen=True)
class Match:
    """How every image of a site is changed before a network gets it.

    Attributes:
        scale: Factor by which what an image shows is enlarged. Above 1 the central 1 / scale of
            both sides is used. Below 1 the whole image is reduced, and the rest of the input is
            filled with its mirror images.
        colour: Applied after resizing; None for none.
    """

    scale: float
    colour: ColourMap | None

    def prepare(self, image: Pixels, side: int, mask: bool) -> Pixels:
        """Resizes a decoded image to (side, side, 3) as `prepare` does, and matches it.

        Args:
            image: RGB, (height, width, 3).
            side: Of the network's input in pixels.
            mask: Whether the corner of the image with the scale bar is covered, before anything
                else.
        """
        covered = mask_scale_bar(image) if mask else image
        resized = _rescale(covered, side, self.scale)
        return resized if self.colour is None else self.colour(resized)

    def to_plain(self) -> dict[str, Any]:
        """Everything that determines the result, as plain data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Match | None:
        """What `to_plain` gave, also after JSON; None stays None."""
        if plain is None:
            return None
        colour = plain["colour"]
        if colour is not None:
            colour = ColourMap(colour["space"], tuple(colour["matrix"]), tuple(colour["offset"]))
        return cls(plain["scale"], colour)


def central(length: int, part: float) -> tuple[int, int]:
    """First pixel and number of pixels of the central part of a side, at least one."""
    count = max(round(part), 1)
    return (length - count) // 2, count


def _rescale(image: Pixels, side: int, scale: float) -> Pixels:
    height, width = image.shape[:2]
    if scale >= 1:
        top, rows = central(height, height / scale)
        left, columns = central(width, width / scale)
        return fit(image[top : top + rows, left : left + columns], side)
    before, inner = central(side, side * scale)
    after = side - inner - before
    small = fit(image, inner)
    padded = cv2.copyMakeBorder(small, before, after, before, after, cv2.BORDER_REFLECT_101)
    return np.asarray(padded, np.uint8)
