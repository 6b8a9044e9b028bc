"""Splits that keep related images together: slides, overlaps, neighbours in file order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcd.config.schema import SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.file_order import file_order
from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.linking import link, named_apart, settle
from bcd.data.splits.slide_groups import likely_slides
from bcd.errors import BcdError

Indices = NDArray[np.int64]

_NEAR = 0.01  # deviation from a class's share at which the search for better groups stops
_TRIES = 100


def name_groups(catalog: Catalog, cfg: SplitConfig, profile: DataProfile | None) -> tuple[str, ...]:
    """Names the group of each image, as configured by `split.groups`.

    Raises:
        BcdError: `split.groups` is `given`, and an image has no group.
    """
    if cfg.groups == "auto":
        assert profile is not None
        return likely_slides(catalog, profile, cfg.group_size).groups
    if cfg.groups == "blocks":
        return settled_blocks(catalog, cfg.group_size, profile)
    names = tuple(image.group for image in catalog.images)
    missing = sum(not name for name in names)
    if missing:
        raise BcdError(
            f"split=grouped requires a group for each image, {missing} of {len(names)} have none: "
            "set data.group_pattern=<regular expression on the path>, give data.root a CSV with a "
            "column 'group', or set split.groups=auto (estimated slides) or split.groups=blocks"
        )
    return names


def name_blocks(catalog: Catalog, size: int) -> tuple[str, ...]:
    """Runs of `size` neighbours in file order; a short remainder belongs to the last run."""
    names = [""] * len(catalog.images)
    for label, name in enumerate(catalog.classes):
        order = file_order(catalog, label)
        last = max(0, len(order) // size - 1)
        for place, index in enumerate(order):
            names[index] = f"{name}/{min(place // size, last):03d}"
    return tuple(names)


def settled_blocks(catalog: Catalog, size: int, profile: DataProfile | None) -> tuple[str, ...]:
    """Blocks by name; each set of overlapping images is moved as a whole into one block.

    The boundaries of blocks are arbitrary, whereas overlaps are observed.
    """
    names = name_blocks(catalog, size)
    if profile is None:
        return names
    labels = np.asarray(catalog.labels, np.int64)
    sets = link(np.arange(len(names)), labels, profile.overlaps)[0]
    known, numbers = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return tuple(str(known[place]) for place in settle(numbers.astype(np.int64), sets))


def hang_together(
    names: Sequence[str], labels: Sequence[int], profile: DataProfile | None
) -> tuple[Indices, list[Overlap]]:
    """Sets of images that must not be split: groups, joined where their images overlap.

    Args:
        names: Group of each image; an image without a name is a group of its own.
        labels: Class of each image.
        profile: Of the images; None if overlaps are unknown.

    Returns:
        Number of each image's set, (n,), and the overlaps that were cut to keep sets small.
    """
    own = np.asarray(named_apart(names), dtype=str)
    numbers = np.unique(own, return_inverse=True)[1].astype(np.int64)
    if profile is None:
        return numbers, []
    return link(numbers, np.asarray(labels, np.int64), profile.overlaps)


def part_groups(
    indices: Indices, labels: Indices, groups: Indices, share: float, seed: int
) -> tuple[Indices, Indices]:
    """Divides indices into (the rest, about a share of each class), without splitting groups.

    Sets of classes that are not linked by a group are handled separately. Groups are added one by
    one while each brings the classes closer to the share, in several random orders, until every
    class is close enough; otherwise the best choice is used.
    """
    tables, found = _tables(indices, labels, groups)
    generator = np.random.default_rng(seed)
    taken: list[int] = []
    for rows in _linked(tables > 0):
        taken += _choose(tables[rows], share, generator, rows)
    inside = np.isin(groups[indices], found[taken])
    return indices[~inside], indices[inside]


def _tables(indices: Indices, labels: Indices, groups: Indices) -> tuple[Indices, Indices]:
    """Images of each class in each group, (groups, classes), and the groups' numbers."""
    found, place = np.unique(groups[indices], return_inverse=True)
    tables = np.zeros((len(found), int(labels.max()) + 1), np.int64)
    np.add.at(tables, (place, labels[indices]), 1)
    return tables, found


def _linked(present: NDArray[np.bool_]) -> list[Indices]:
    """Rows of (groups, classes) by sets of classes that are linked by groups."""
    from scipy.sparse.csgraph import connected_components

    links = present.T.astype(np.int64) @ present
    label = connected_components(links, directed=False)[1]
    return [np.flatnonzero(present[:, label == k].any(axis=1)) for k in np.unique(label)]


def _choose(
    tables: Indices, share: float, generator: np.random.Generator, rows: Indices
) -> list[int]:
    """The rows of one set of classes that come closest to the share; never all of them."""
    total = tables.sum(axis=0)
    goal, scale = share * total, np.maximum(total, 1)
    best: tuple[float, list[int]] = (np.inf, [])
    possible = total > 0
    for attempt in range(_TRIES):
        order = generator.permutation(len(tables))
        if attempt % 2 == 0:  # large groups first, so that small ones fill the rest
            sizes = tables.sum(axis=1)
            order = order[np.argsort([-int(sizes[i]).bit_length() for i in order], kind="stable")]
        taken = _take(tables[order], goal, scale)
        have = tables[order[taken]].sum(axis=0)
        # A set that lacks a class is useless, however close the other classes are.
        far = (
            np.abs((have - goal) / scale).max() + (possible & ~((have > 0) & (have < total))).sum()
        )
        if taken and far < best[0]:
            best = (float(far), [int(rows[order[i]]) for i in taken])
        if best[0] <= _NEAR:
            break
    return best[1]


def _take(tables: Indices, goal: NDArray[np.float64], scale: Indices) -> list[int]:
    taken: list[int] = []
    have = np.zeros(len(goal))
    for number, table in enumerate(tables):
        now = np.square((have - goal) / scale).sum()
        nearer = np.square((have + table - goal) / scale).sum() < now
        first = ((have == 0) & (table > 0)).any()
        if (nearer or first) and len(taken) < len(tables) - 1:
            taken.append(number)
            have = have + table
    return taken


def part_blocks(catalog: Catalog, cfg: SplitConfig, profile: DataProfile | None) -> list[str]:
    """Subsets by contiguous blocks of each class's file order.

    The test set is one block: fold `split.fold` of `split.folds`, or a share `split.test` of the
    class at a random position. The val set is the end of the longer side, away from the test set,
    so that train begins one embargo from it. Between any two sets `split.embargo` files are left
    out. Images that overlap one of a set with precedence
    (test before val before train) are left out too.
    """
    subsets = ["excluded"] * len(catalog.images)
    generator = np.random.default_rng(cfg.seed)
    for label in range(len(catalog.classes)):
        order = file_order(catalog, label)
        for part, (start, stop) in _spans(len(order), cfg, generator):
            for index in order[max(start, 0) : max(stop, 0)]:
                subsets[index] = part
    if profile is not None:
        _leave_out_overlapping(subsets, profile)
    return subsets


def _spans(
    n: int, cfg: SplitConfig, generator: np.random.Generator
) -> list[tuple[str, tuple[int, int]]]:
    """(subset, (start, stop)) of each block of a class of n files."""
    if cfg.folds is None:
        start = int(generator.integers(0, n - round(cfg.test * n) + 1))
        stop = start + round(cfg.test * n)
    else:
        start, stop = (cfg.fold * n // cfg.folds, (cfg.fold + 1) * n // cfg.folds)
    gap = cfg.embargo
    val = max(1, round(cfg.val * (n - (stop - start))))
    before, after = (0, start - gap), (stop + gap, n)  # what is far enough from the test set
    if n - stop >= start:
        first = max(n - val, stop + gap)
        held_out, after = (first, n), (stop + gap, first - gap)
    else:
        last = min(val, start - gap)
        held_out, before = (0, last), (last + gap, start - gap)
    return [("train", before), ("train", after), ("test", (start, stop)), ("val", held_out)]


def _leave_out_overlapping(subsets: list[str], profile: DataProfile) -> None:
    for part, others in (("test", ("val", "train")), ("val", ("train",))):
        kept = [i for i, subset in enumerate(subsets) if subset == part]
        for i in np.flatnonzero(profile.touching(kept)):
            if subsets[i] in others:
                subsets[i] = "excluded"
