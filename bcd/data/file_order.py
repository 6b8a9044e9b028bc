"""The order in which a class's images were probably taken: by path, numbers by value."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog

MOST_TURNS = 6  # acquisition sessions that may be interleaved in the numbering of files


def file_order(catalog: Catalog, label: int) -> NDArray[np.int64]:
    """Indices of a class's images by path, with numbers in numeric order."""
    chosen = [i for i, image in enumerate(catalog.images) if image.label == label]
    return np.asarray(sorted(chosen, key=lambda i: _natural(catalog.images[i].path)), np.int64)


def _natural(path: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]
