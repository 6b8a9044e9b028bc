"""Linking: joins images into sets by groups and by overlaps, small enough for a split.

Overlaps form chains: one image overlaps the next, which overlaps another, until a whole class is
connected. Such sets are cut where the overlap is smallest (single-linkage clustering, as Kruskal's
algorithm with a limit on the size of a set).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcd.data.quality.overlaps import COPIES, Overlap

Indices = NDArray[np.int64]

# Share of a class: a larger set of overlapping images than the usual test set is cut, as it could
# only be in train.
LARGEST = 0.3
_FEW = 5  # images: a set of at most this size is not cut, however small the class


def named_apart(names: Sequence[str]) -> list[str]:
    """Groups by their names, (n,); an image without one is a group of its own."""
    return [f"in {name}" if name else f"alone {i}" for i, name in enumerate(names)]


def link(
    groups: Indices, labels: Indices, pairs: Sequence[Overlap], largest: float = LARGEST
) -> tuple[Indices, list[Overlap]]:
    """Joins overlapping groups, largest overlaps first, as long as no set becomes too large.

    Groups are never cut, however large they are, and copies are never separated.

    Args:
        groups: Number of each image's group, (n,).
        labels: Class of each image, (n,).
        pairs: Overlaps of images.
        largest: Share of a class that a set may hold.

    Returns:
        Number of each image's set, (n,), and the overlaps that were cut, whose images are in
        different sets.
    """
    sets = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    sizes = np.zeros((int(sets.max(initial=-1)) + 1, int(labels.max(initial=0)) + 1), np.int64)
    np.add.at(sizes, (sets, labels), 1)
    limit = np.maximum(largest * sizes.sum(axis=0), _FEW)
    parent = list(range(len(sizes)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for pair in sorted(pairs, key=lambda o: (o.kind not in COPIES, -o.share, o.first, o.second)):
        a, b = root(int(sets[pair.first])), root(int(sets[pair.second]))
        if a == b:
            continue
        both = sizes[a] + sizes[b]
        if pair.kind in COPIES or (both <= limit).all():
            parent[b] = a
            sizes[a] = both
    found = np.asarray([root(number) for number in range(len(parent))], np.int64)[sets]
    numbers = np.unique(found, return_inverse=True)[1].astype(np.int64)
    return numbers, [pair for pair in pairs if numbers[pair.first] != numbers[pair.second]]


def settle(groups: Indices, sets: Indices) -> Indices:
    """Moves each set as a whole into the group that holds most of it; numbers of groups, (n,)."""
    sets = np.unique(sets, return_inverse=True)[1]
    count = int(groups.max(initial=0)) + 1
    both, times = np.unique(sets * count + groups, return_counts=True)
    order = np.lexsort((both, -times))  # of equally large groups the first
    _, first = np.unique(both[order] // count, return_index=True)
    kept = (both[order] % count)[first]
    return np.asarray(kept[sets], np.int64)
