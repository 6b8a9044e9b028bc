"""Sources: what the class may be told from that is not the shape of cells.

Only the colours of the background see no cell, as far as one can be told from glass
(`bcd.data.quality.background` says where not). Whole-picture colours, thumbnails, borders
and corners hold stained cells too, or pieces of them: what they tell is not of slide and camera
alone. On drawn smears, whose background knows nothing of the cells, colours of the whole picture
predict how much of it is stained with an R2 of 0.90, the corner patches with one of 0.13, and the
background with none (`python -m bench.background`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.quality.image_statistics import Looks

Values = NDArray[np.float32]

CORNERS = ("top left", "top right", "bottom left", "bottom right")
BACKGROUND = "colours of the background alone"
COLOUR = "colour quantiles of the whole image"
PATCHES = "mean colours of four corner patches"
CORNER = "corner, "
MASKED = CORNER + CORNERS[-1]  # what `data.mask_scale_bar` hides from the network
IN_RUNS = (BACKGROUND, PATCHES, COLOUR)  # what every training run looks at


def _file(looks: Looks, catalog: Catalog) -> Values:
    sizes = np.asarray([(p.width, p.height) for p in catalog.pictures], np.float32)
    return np.concatenate([looks.encoding, sizes], axis=1)


def _corner(number: int, looks: Looks, _: Catalog) -> Values:
    corner = looks.corners[:, number].astype(np.float32)
    # A mark is dark on light or light on dark; how light the slide is is another question.
    brightest = np.quantile(corner, 0.9, axis=1, keepdims=True)
    return np.asarray(corner - brightest, np.float32)


SOURCES: dict[str, Callable[[Looks, Catalog], Values]] = {
    BACKGROUND: lambda looks, _: looks.glass,
    PATCHES: lambda looks, _: looks.patches,
    COLOUR: lambda looks, _: looks.quantiles,
    "border": lambda looks, _: looks.frame.astype(np.float32),
    "16 x 16 thumbnail": lambda looks, _: looks.tiny.reshape(len(looks.tiny), -1).astype(
        np.float32
    ),
    "file size and JPEG tables": _file,
    **{CORNER + name: partial(_corner, number) for number, name in enumerate(CORNERS)},
}
"""Of n pictures, values (n, d); rows that are not numbers are of pictures without any."""
