"""Pictures of an image for people, made in the process that decodes it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.files import ImageError

REDUCED, OUTLINED = "reduced", "outlined"
_WORK = 1024  # pixels of the longer side in which cells are found: outlines are drawn on fewer


@dataclass(frozen=True)
class Picture:
    """A picture of an image.

    Attributes:
        kind: `REDUCED`, or `OUTLINED` with outlines of white cells and their nuclei.
        side: Pixels of the longer side at most.
    """

    kind: str
    side: int

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draws it.

        Args:
            image: RGB, (height, width, 3).

        Returns:
            RGB of another size with the same proportions.

        Raises:
            ImageError: Cells cannot be found in an image as small as this.
        """
        return _outlined(image, self.side) if self.kind == OUTLINED else reduced(image, self.side)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be this picture."""
        return len(shape) == 3 and min(shape) > 0 and max(shape[:2]) <= self.side and shape[2] == 3


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
