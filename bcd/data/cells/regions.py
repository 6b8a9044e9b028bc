"""The regions of a smear: white cells, red cells, background, and the corner of the scale bar."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bcd.data.cells.morphology import Mask, fill_holes
from bcd.data.cells.scale import red_cell_size
from bcd.data.cells.segmentation import Cells, find_cells
from bcd.data.quality.background import largest, optical_density
from bcd.data.quality.red_cells import foreground
from bcd.data.reading import BAR_HEIGHT, BAR_WIDTH

REGIONS = ("white cells", "red cells", "background", "scale bar")


def find_regions(image: NDArray[np.uint8], cells: Cells | None = None) -> dict[str, Mask]:
    """Divides an image into regions.

    Whether an image has a scale bar is not measured: the region is the corner that
    `mask_scale_bar` covers, in every image, and belongs to no other region. Platelets and debris
    count as red cells, as does everything that is stained and no white cell.

    Args:
        image: RGB, (height, width, 3), both sides at least 32 pixels.
        cells: Its white cells, if they are known.

    Returns:
        A mask (height, width) by each name of `REGIONS`. Every pixel is in exactly one of them.

    Raises:
        ValueError: As in `find_cells`.
    """
    cells = find_cells(image) if cells is None else cells
    height, width = cells.labels.shape
    bar = np.zeros((height, width), bool)
    bar[height - round(BAR_HEIGHT * height) :, width - round(BAR_WIDTH * width) :] = True
    density = optical_density(image)
    # The pale centre of a red cell may be as light as the background.
    centre = math.pi / 4 * red_cell_size(density) ** 2
    stained = fill_holes(foreground(largest(density)) > 0, centre)
    white = cells.mask & ~bar
    red = stained & ~cells.mask & ~bar
    return dict(zip(REGIONS, (white, red, ~(white | red | bar), bar), strict=True))
