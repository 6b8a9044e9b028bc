"""Keeps the pictures of a file in one set: they show one patient, whoever divides them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog, ImageRecord
from bcd.data.splits.linking import settle
from bcd.errors import BcdError

Indices = NDArray[np.int64]
Subsets = NDArray[Any]

_PRECEDENCE = ("test", "val", "train")


def file_names(images: Sequence[ImageRecord]) -> list[str]:
    """The file of each picture that shares it with others, (n,); empty for any other image."""
    return ["" if image.frame is None else image.file for image in images]


def file_units(catalog: Catalog) -> Indices | None:
    """Number of each image's file, (n,); None if every file is one image."""
    if all(image.frame is None for image in catalog.images):
        return None
    files = np.asarray([image.file for image in catalog.images], dtype=str)
    return np.unique(files, return_inverse=True)[1].astype(np.int64)


def keep_whole(groups: tuple[str, ...], units: Indices | None) -> tuple[str, ...]:
    """Groups in which each file is in the group that has most of its pictures."""
    if units is None:
        return groups
    names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return tuple(str(names[place]) for place in settle(numbers.astype(np.int64), units))


def without_torn(subsets: Subsets, units: Indices | None) -> Subsets:
    """Subsets without the pictures of a file that are in another one than the first of them.

    The test set comes before val, and val before train, as for images that overlap.
    """
    if units is None:
        return subsets
    kept = subsets.copy()
    taken = np.zeros(int(units.max(initial=-1)) + 1, np.bool_)
    for name in _PRECEDENCE:
        inside = subsets == name
        kept[inside & taken[units]] = "excluded"
        taken[units[inside]] = True
    return kept


def refuse_torn(catalog: Catalog, subsets: Subsets, units: Indices | None) -> None:
    """Refuses given subsets if pictures of one file are in several.

    Raises:
        BcdError: Names a file.
    """
    torn = np.flatnonzero(without_torn(subsets, units) != subsets)
    if len(torn):
        file = catalog.images[torn[0]].file
        raise BcdError(
            f"split=csv: pictures of {file} are in several of train, val and test, but they show "
            "one patient: give all of them one subset, or 'excluded'"
        )
