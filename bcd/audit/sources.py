"""Sources of information other than the shape of cells from which the class may be predicted.

Only the colours of the background exclude all cells, as far as the two can be separated
(`bcd.data.quality.background` describes the limits). Whole-image colours, thumbnails, borders and
corners contain stained cells too, or pieces of them, so they do not reflect slide and camera
alone. On generated smears, whose background is independent of the cells, the colours of the whole
image predict the stained area with an R2 of 0.90, the corner patches with one of 0.13, and the
background not at all (`python -m bench.background`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.quality.image_statistics import ImageStatistics

Values = NDArray[np.float32]

CORNERS = ("top left", "top right", "bottom left", "bottom right")
BACKGROUND = "colours of the background alone"
COLOUR = "colour quantiles of the whole image"
PATCHES = "mean colours of four corner patches"
CORNER = "corner, "
MASKED = CORNER + CORNERS[-1]  # masked from the network by `data.mask_scale_bar`
BRIEF_SOURCES = (BACKGROUND, PATCHES, COLOUR)  # probed by every training run


def _file(statistics: ImageStatistics, catalog: Catalog) -> Values:
    sizes = np.asarray([(p.width, p.height) for p in catalog.images], np.float32)
    return np.concatenate([statistics.encoding, sizes], axis=1)


def _corner(number: int, statistics: ImageStatistics, _: Catalog) -> Values:
    corner = statistics.corners[:, number].astype(np.float32)
    # A mark differs from its surroundings; the brightness of the slide must not matter.
    brightest = np.quantile(corner, 0.9, axis=1, keepdims=True)
    return np.asarray(corner - brightest, np.float32)


SOURCES: dict[str, Callable[[ImageStatistics, Catalog], Values]] = {
    BACKGROUND: lambda statistics, _: statistics.background_quantiles,
    PATCHES: lambda statistics, _: statistics.patches,
    COLOUR: lambda statistics, _: statistics.quantiles,
    "border": lambda statistics, _: statistics.frame.astype(np.float32),
    "16 x 16 thumbnail": lambda statistics, _: statistics.tiny.reshape(
        len(statistics.tiny), -1
    ).astype(np.float32),
    "file size and JPEG tables": _file,
    **{CORNER + name: partial(_corner, number) for number, name in enumerate(CORNERS)},
}
"""Functions that give values (n, d) of n images; rows that are not finite have no values."""
