"""Retrieval: which pairs of images are worth registering, without trying all of them.

Every keypoint is a visual word, by the nearest of 256 centres in either half of its descriptor. Two
images are alike as they share rare words whose orientations differ by one and the same rotation; an
inverted file gives those most alike, turned and mirrored ones too. Neighbours in file order are
tried whatever they look like, as fields are photographed one beside the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.file_order import MOST_TURNS
from bcd.data.keypoints import Keypoints

_ALL = 64  # images up to which every pair is tried
_ALIKE = 6  # images most alike that are tried for each
_CENTRES, _SAMPLE, _ROUNDS = 256, 30_000, 10
_TURNS = 12  # orientations that a word may have, and rotations that are tried
_CHUNK = 128
_WORD_CHUNK = 1 << 16


@dataclass(frozen=True)
class Candidates:
    """Pairs to register: indices of both, the first smaller, and whether one is mirrored; (p,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    mirrored: NDArray[np.bool_]


def find_candidates(points: Keypoints, orders: Sequence[NDArray[np.int64]]) -> Candidates:
    """Finds the pairs that are worth registering.

    Args:
        points: Keypoints of n images.
        orders: Indices of the images of each class in file order.

    Returns:
        No more than a fixed number for each image, unless there are few images.
    """
    n = len(points.count)
    if n <= _ALL:
        first, second = np.triu_indices(n, 1)
        pairs = [(first, second, np.full(len(first), mirror)) for mirror in (False, True)]
    else:
        pairs = [*_neighbours(orders), _alike(points)]
    first, second, mirrored = (np.concatenate(column) for column in zip(*pairs, strict=True))
    low, high = np.minimum(first, second), np.maximum(first, second)
    low, high, mirrored = np.unique(np.stack([low, high, mirrored]), axis=1)
    return Candidates(low, high, mirrored.astype(np.bool_))


Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


def _neighbours(orders: Sequence[NDArray[np.int64]]) -> list[Pairs]:
    """Files at most as far apart as the next one of the same sitting may be."""
    steps = [(order[:-s], order[s:]) for order in orders for s in range(1, MOST_TURNS + 1)]
    return [(a, b, np.zeros(len(a), np.bool_)) for a, b in steps]


def _alike(points: Keypoints) -> Pairs:
    """Each image with those that share most words with it."""
    n, k = points.place.shape
    owner, which = np.nonzero(np.arange(k) < points.count[:, None])
    plain, mirrored = _words(points, owner, which)
    angle = points.angle[owner, which]
    frequency = np.bincount(np.unique(owner * np.int64(_CENTRES**2) + plain) % _CENTRES**2)
    rarity = np.zeros(_CENTRES**2, np.float32)
    rarity[: len(frequency)] = np.log(n / np.maximum(frequency, 1))
    # In the inverted file each word has the two orientations nearest to its own.
    step = angle * (_TURNS / (2 * np.pi))
    beside = np.where(step % 1 < 0.5, step - 1, step + 1)
    file = _table(
        n,
        np.tile(owner, 2),
        np.tile(plain, 2),
        np.concatenate([step, beside]),
        rarity,
    ).T.tocsr()
    found: list[Pairs] = []
    starts = np.searchsorted(owner, np.arange(n + 1))
    for start in range(0, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        own = slice(starts[start], starts[stop])
        asked = _asked(owner[own] - start, plain[own], mirrored[own], angle[own])
        shared = _table((stop - start) * 2 * _TURNS, *asked, rarity) @ file
        found += _most(shared, start, stop)
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore


def _asked(
    row: NDArray[np.int64],
    plain: NDArray[np.int64],
    mirrored: NDArray[np.int64],
    angle: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows, words and orientations of images under every rotation, as they are and mirrored.

    Rotation r of image i is row 2 * 12 * i + r, of its mirror image 2 * 12 * i + 12 + r.
    """
    rows, words, steps = [], [], []
    for mirror, (word, seen) in enumerate(((plain, angle), (mirrored, np.pi - angle))):
        for turn in range(_TURNS):
            rows.append((2 * row + mirror) * _TURNS + turn)
            words.append(word)
            steps.append(seen * (_TURNS / (2 * np.pi)) + turn)
    return np.concatenate(rows), np.concatenate(words), np.concatenate(steps)


def _table(
    rows: int,
    row: NDArray[np.int64],
    word: NDArray[np.int64],
    step: NDArray[np.floating[Any]],
    rarity: NDArray[np.float32],
) -> Any:
    """Sparse (rows, words x orientations): how much each word with its orientation weighs."""
    from scipy.sparse import csr_array

    column = word * _TURNS + np.floor(step).astype(np.int64) % _TURNS
    shape = (rows, _CENTRES**2 * _TURNS)
    table = csr_array((np.ones(len(row), np.float32), (row, column)), shape=shape)
    table.sum_duplicates()
    table.data = np.sqrt(table.data) * rarity[table.indices // _TURNS]
    return table


def _most(shared: Any, start: int, stop: int) -> list[Pairs]:
    """Of images `start` to `stop`, whose rows are `shared`, those most alike to each."""
    found: list[Pairs] = []
    per = 2 * _TURNS
    for image in range(start, stop):
        rows = shared.indptr[(image - start) * per : (image - start + 1) * per + 1]
        own = slice(rows[0], rows[-1])
        weight, other = shared.data[own].copy(), shared.indices[own]
        weight[other == image] = 0
        many = min(len(weight), _ALIKE * 6)  # one image may be alike under several rotations
        top = np.argpartition(-weight, many - 1)[:many] if many else np.empty(0, np.int64)
        top = top[np.argsort(-weight[top], kind="stable")]
        top = top[weight[top] > 0]
        _, once = np.unique(other[top], return_index=True)
        top = top[np.sort(once)[:_ALIKE]]
        turn = np.searchsorted(rows - rows[0], top, side="right") - 1
        mirrored = turn >= _TURNS
        found.append((np.full(len(top), image), other[top].astype(np.int64), mirrored))
    return found


def _words(
    points: Keypoints, owner: NDArray[np.int64], which: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Word of each keypoint as it is, and mirrored."""
    from sklearn.cluster import KMeans

    apart = max(1, len(owner) // _SAMPLE)
    sample = points.descriptors[owner[::apart], which[::apart]].astype(np.float32)
    sample = np.concatenate([sample, sample * points.mirror])
    words = np.zeros((2, len(owner)), np.int64)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        k = min(_CENTRES, len(sample))
        means = KMeans(k, n_init=1, init="random", max_iter=_ROUNDS, random_state=0)
        centres = means.fit(sample[:, half]).cluster_centers_.astype(np.float32)
        lengths = np.square(centres).sum(axis=1) / 2
        for start in range(0, len(owner), _WORD_CHUNK):
            part = slice(start, start + _WORD_CHUNK)
            values = points.descriptors[owner[part], which[part]].astype(np.float32)
            for number, seen in enumerate((values, values * points.mirror)):
                nearest = (seen[:, half] @ centres.T - lengths).argmax(axis=1)
                words[number, part] = words[number, part] * _CENTRES + nearest
    return words[0], words[1]
