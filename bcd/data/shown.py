"""Pictures of an image for people, made in the process that decodes it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.files import ImageError
from bcd.data.opening import MAX_PIXELS

REDUCED, OUTLINED, WHOLE = "reduced", "outlined", "whole"
_WORK = 1024  # pixels of the longer side in which cells are found: outlines are drawn on fewer


@dataclass(frozen=True)
class Picture:
    """A picture of an image.

    Attributes:
        kind: `REDUCED`, `OUTLINED` with outlines of white cells and their nuclei, or `WHOLE` with
            all its pixels.
        side: Pixels of the longer side at most; without effect if it is whole.
    """

    kind: str
    side: int = 0

    @property
    def whole(self) -> bool:
        """Whether it has all pixels, also of an image that is read at half its size otherwise."""
        return self.kind == WHOLE

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draws it.

        Args:
            image: RGB, (height, width, 3).

        Returns:
            RGB, with the same proportions.

        Raises:
            ImageError: Cells cannot be found in an image as small as this.
        """
        if self.whole:
            return image
        return _outlined(image, self.side) if self.kind == OUTLINED else reduced(image, self.side)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be this picture."""
        if len(shape) != 3 or min(shape) <= 0 or shape[2] != 3:
            return False
        if self.whole:
            return shape[0] * shape[1] <= MAX_PIXELS
        return max(shape[:2]) <= self.side


def reduced(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The image with a longer side of at most so many pixels, by area averages."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return image
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _outlined(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from bcd.data.cells.outlines import draw_outlines
    from bcd.data.cells.segmentation import SMALLEST_SIDE, find_cells

    small = reduced(image, _WORK)
    if min(small.shape[:2]) < SMALLEST_SIDE:
        raise ImageError(f"too small to find cells (less than {SMALLEST_SIDE} pixels)")
    return reduced(draw_outlines(small, find_cells(small)), side)
