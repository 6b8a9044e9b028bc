"""Retrieval: finds candidate pairs of images to register, without trying all pairs.

Every keypoint is a visual word, and an inverted file finds the images that share most words (Sivic
and Zisserman, ICCV 2003). A word is the nearest of 256 centres in either half of the descriptor,
which gives 65,536 words from two small codebooks (Babenko and Lempitsky, CVPR 2012). Shared words
weigh more the rarer they are (inverse document frequency; Spaerck Jones, J Doc 1972;28:11), and
count only if their orientations differ by one common rotation (weak geometric consistency; Jegou et
al., ECCV 2008). Rotated and mirrored images are found too. Neighbours in file order are always
candidates, as fields are photographed one beside the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.file_order import MOST_TURNS
from bcd.data.quality.keypoints import Keypoints

_ALL = 64  # number of images up to which every pair is tried
_ALIKE = 6  # most similar images that are tried for each image
_MORE = 32  # further images per round, for an image that overlaps at least `_ALIKE` others
_CENTRES, _SAMPLE, _ROUNDS = 256, 30_000, 10
_COMMON = 400  # images: a word in more of them is ignored, as it is costly and tells little
_TURNS = 12  # bins of a word's orientation, and rotations that are tried
_CHUNK = 64  # images searched for at a time
_MANY = 30  # number of chunks above which progress is shown
_WORD_CHUNK = 2048  # keypoints whose distances to all centres fit into the processor's cache


@dataclass(frozen=True)
class Candidates:
    """Pairs to register: indices of both, the first smaller, and whether one is mirrored; (p,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    mirrored: NDArray[np.bool_]


def find_candidates(points: Keypoints, orders: Sequence[NDArray[np.int64]]) -> Candidates:
    """Finds the pairs to register.

    Args:
        points: Keypoints of n images.
        orders: Indices of the images of each class in file order.

    Returns:
        A bounded number of pairs for each image; all pairs if there are few images.
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


def find_more(n: int, found: Candidates, tried: Candidates) -> Candidates:
    """Finds pairs of images that both overlap a third image and have not been registered.

    If many images show one field, an image overlaps more of them than its most similar ones. This
    applies to images that overlap at least `_ALIKE` others.

    Args:
        n: Number of images.
        found: Pairs that overlap, each once.
        tried: Pairs that were registered.

    Returns:
        For each such image at most `_MORE` pairs, those with most overlapping images in common.
    """
    from scipy.sparse import csr_array, triu

    ends = np.concatenate([[found.first, found.second], [found.second, found.first]], axis=1)
    sign = np.tile(np.where(found.mirrored, -1.0, 1.0), 2)
    linked, signed = (csr_array((v, tuple(ends)), shape=(n, n)) for v in (np.abs(sign), sign))
    many = np.bincount(ends[0], minlength=n) >= _ALIKE
    # A pair is mirrored if exactly one of its images is mirrored against the third image.
    every, balance = linked @ linked, signed @ signed
    ways = [triu(every + balance, 1).tocoo(), triu(every - balance, 1).tocoo()]
    common = np.concatenate([way.data for way in ways])
    first, second = (np.concatenate([way.coords[k] for way in ways]) for k in (0, 1))
    first, second = first.astype(np.int64), second.astype(np.int64)
    mirrored = np.repeat([False, True], [len(way.data) for way in ways])
    known = (tried.first * n + tried.second) * 2 + tried.mirrored
    new = ~np.isin((first * n + second) * 2 + mirrored, known) & (many[first] | many[second])
    new &= common > 0
    first, second, mirrored, common = first[new], second[new], mirrored[new], common[new]
    both = np.concatenate([first, second])
    order = np.lexsort((np.tile(-common, 2), both))
    rank = np.empty(len(both), np.int64)
    rank[order] = np.arange(len(both)) - np.searchsorted(both[order], both[order])
    kept = ((rank < _MORE) & many[both]).reshape(2, -1).any(axis=0)
    return Candidates(first[kept], second[kept], mirrored[kept])


Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


def _neighbours(orders: Sequence[NDArray[np.int64]]) -> list[Pairs]:
    """Files no further apart than two consecutive files of one of several interleaved sessions."""
    steps = [(order[:-s], order[s:]) for order in orders for s in range(1, MOST_TURNS + 1)]
    return [(a, b, np.zeros(len(a), np.bool_)) for a, b in steps]


def _alike(points: Keypoints) -> Pairs:
    """Each image with the images that share most words with it."""
    from bcd.console import track

    n, k = points.place.shape
    owner, which = np.nonzero(np.arange(k) < points.count[:, None])
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        plain, mirrored = _words(points, owner, which, pool)
        angle = points.angle[owner, which]
        rarity = _rarity(owner, plain, n)
        # In the inverted file each word has the two orientation bins nearest to its own.
        step = angle * (_TURNS / (2 * np.pi))
        beside = np.where(step % 1 < 0.5, step - 1, step + 1)
        both = np.concatenate([step, beside])
        file = _table(n, np.tile(owner, 2), np.tile(plain, 2), both, rarity).T.tocsr()
        starts = np.searchsorted(owner, np.arange(n + 1))

        def search(start: int) -> list[Pairs]:
            stop = min(start + _CHUNK, n)
            own = slice(starts[start], starts[stop])
            asked = _asked(owner[own] - start, plain[own], mirrored[own], angle[own])
            return _most(_turned(_table(2 * (stop - start), *asked, rarity)) @ file, start, stop)

        chunks = range(0, n, _CHUNK)
        done: Iterable[list[Pairs]] = pool.map(search, chunks)
        done = track(done, "Comparing images", len(chunks)) if len(chunks) > _MANY else done
        found = [pairs for part in done for pairs in part]
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore


def _rarity(owner: NDArray[np.int64], word: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Weight of each word: its inverse document frequency, 0 for common words."""
    seen = np.sort(owner * np.int64(_CENTRES**2) + word)
    seen = seen[np.diff(seen, prepend=-1) > 0] % _CENTRES**2
    frequency = np.bincount(seen, minlength=_CENTRES**2)
    weight = np.log(n / np.maximum(frequency, 1))
    return np.where(frequency > _COMMON, 0, weight).astype(np.float32)


def _asked(
    row: NDArray[np.int64],
    plain: NDArray[np.int64],
    mirrored: NDArray[np.int64],
    angle: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows, words and orientations of images, in row 2 * i, and of mirrored ones, in 2 * i + 1."""
    seen = np.concatenate([angle, np.float32(np.pi) - angle]) * np.float32(_TURNS / (2 * np.pi))
    return np.concatenate([2 * row, 2 * row + 1]), np.concatenate([plain, mirrored]), seen


def _turned(table: Any) -> Any:
    """Each row of a table under every rotation: rotation r of row i is row 12 * i + r."""
    turned = table[np.repeat(np.arange(table.shape[0]), _TURNS)]
    turn = np.repeat(np.arange(turned.shape[0]) % _TURNS, np.diff(turned.indptr))
    word, seen = np.divmod(turned.indices, _TURNS)
    turned.indices = (word * _TURNS + (seen + turn) % _TURNS).astype(turned.indices.dtype)
    turned.has_sorted_indices = False
    return turned


def _table(
    rows: int,
    row: NDArray[np.int64],
    word: NDArray[np.int64],
    step: NDArray[np.floating[Any]],
    rarity: NDArray[np.float32],
) -> Any:
    """Sparse (rows, words x orientations): weight of each word with its orientation."""
    from scipy.sparse import csr_array

    column = word * _TURNS + np.floor(step).astype(np.int64) % _TURNS
    shape = (rows, _CENTRES**2 * _TURNS)
    table = csr_array((np.ones(len(row), np.float32), (row, column)), shape=shape)
    table.sum_duplicates()
    table.data = np.sqrt(table.data) * rarity[table.indices // _TURNS]
    table.eliminate_zeros()
    return table


def _most(shared: Any, start: int, stop: int) -> list[Pairs]:
    """The images most similar to each of images `start` to `stop`, whose rows are `shared`."""
    found: list[Pairs] = []
    per = 2 * _TURNS
    for image in range(start, stop):
        rows = shared.indptr[(image - start) * per : (image - start + 1) * per + 1]
        own = slice(rows[0], rows[-1])
        weight, other = shared.data[own].copy(), shared.indices[own]
        weight[other == image] = 0
        many = min(len(weight), _ALIKE * 6)  # an image may be similar under several rotations
        near = np.flatnonzero(weight > weight.max(initial=0) / 2)  # usually few, and enough
        if len(near) < many:
            near = np.arange(len(weight))
        top = near[np.argpartition(-weight[near], many - 1)[:many]] if many else near
        top = top[np.argsort(-weight[top], kind="stable")]
        top = top[weight[top] > 0]
        _, once = np.unique(other[top], return_index=True)
        top = top[np.sort(once)[:_ALIKE]]
        turn = np.searchsorted(rows - rows[0], top, side="right") - 1
        mirrored = turn >= _TURNS
        found.append((np.full(len(top), image), other[top].astype(np.int64), mirrored))
    return found


def _words(
    points: Keypoints, owner: NDArray[np.int64], which: NDArray[np.int64], pool: Executor
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Word of each keypoint as it is, and mirrored."""
    from sklearn.cluster import KMeans

    apart = max(1, len(owner) // _SAMPLE)
    sample = points.descriptors[owner[::apart], which[::apart]].astype(np.float32)
    sample = np.concatenate([sample, sample * points.mirror])
    halves = slice(0, None, 2), slice(1, None, 2)
    k = min(_CENTRES, len(sample))
    means = KMeans(k, n_init=1, init="random", max_iter=_ROUNDS, random_state=0)
    centres = [means.fit(sample[:, h]).cluster_centers_.astype(np.float32) for h in halves]
    words = np.zeros((2, len(owner)), np.int64)

    def name(start: int) -> None:
        part = slice(start, start + _WORD_CHUNK)
        values = points.descriptors[owner[part], which[part]].astype(np.float32)
        for number, seen in enumerate((values, values * points.mirror)):
            for half, middle in zip(halves, centres, strict=True):
                nearness = seen[:, half] @ middle.T
                nearness -= np.square(middle).sum(axis=1) / 2
                words[number, part] = words[number, part] * _CENTRES + nearness.argmax(axis=1)

    for _ in pool.map(name, range(0, len(owner), _WORD_CHUNK)):
        pass
    return words[0], words[1]
