"""Overlaps: pairs of images that show the same field of one slide, entirely or in part.

Copies are found by their content. Among the remaining images, candidate pairs are retrieved
(`retrieval`) and registered (`registration`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.file_order import file_order
from bcd.data.parallel import are_small
from bcd.data.quality.image_statistics import ImageStatistics
from bcd.data.quality.keypoints import Keypoints, find_keypoints
from bcd.data.quality.registration import Registration, register
from bcd.data.quality.retrieval import Candidates, find_candidates, find_more
from bcd.storage import JsonCache, write_csv

CACHE = JsonCache("overlaps")

_VERSION = 4  # increase it when the same images give other overlaps

KINDS = ("bytes", "pixels", "near", "overlap")
COPIES = KINDS[:2]

# Shared area from which two images of one field count as near duplicates, since one adds little to
# the other. With less they count as overlapping images.
DUPLICATE_SHARE = 0.8

_CHUNK = 32  # pairs registered at a time, so that their matrices fit into the processor's cache
_ROUNDS = 4  # of further candidates for images that overlap many others
_MANY = 200  # number of chunks above which a progress bar is shown


@dataclass(frozen=True)
class Overlap:
    """Two images of one field.

    Attributes:
        first: Index in the catalog.
        second: Likewise, larger.
        kind: `bytes`: the same file; `pixels`: the same decoded pixels; `near`: near duplicates,
            each of which shows at least `DUPLICATE_SHARE` of the other's area; `overlap`: less
            than that.
        score: Normalized cross-correlation of both where they overlap, at most 1.
        dx: How far the second image's centre lies to the right of the first image's, in shares of
            the first image's longer side.
        dy: Likewise, downwards.
        share: Share of the first image's area that the second one shows.
    """

    first: int
    second: int
    kind: str
    score: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    share: float = 1.0


def find_overlaps(catalog: Catalog, load: Callable[[], ImageStatistics]) -> list[Overlap]:
    """Finds the pairs of images that show the same field; caches them.

    If more than two images have the same bytes or pixels, each is paired with the first, which
    represents all of them in comparisons with other images.

    Args:
        catalog: The images.
        load: Returns the statistics of the same images; called only if no overlaps are cached.

    Returns:
        Pairs, by their indices, in order.

    Raises:
        BcdError: An image has changed or gone since the catalog was made.
    """
    rows = [f"{p.sha256} {p.label} {p.path}" for p in catalog.images]
    text = "\n".join([str(_VERSION), *rows])  # including the path, which determines the file order
    cached = CACHE.load(text)
    with contextlib.suppress(TypeError):  # nothing, or not what this version writes
        return [Overlap(*row) for row in cached]
    import sklearn.cluster  # noqa: F401  (the limit applies to libraries that are loaded already)
    from threadpoolctl import threadpool_limits

    found, different = _copies(catalog, load())
    # One thread per matrix product, as the number of threads must not change the rounding. Pairs
    # are processed in parallel, and their products are too small to be split among threads.
    with threadpool_limits(1):
        found += _registered(catalog, different)
    found.sort(key=lambda pair: (pair.first, pair.second))
    about = f"{len(found)} pairs among {len(catalog.images)} images of {catalog.root}"
    CACHE.save(text, about, [astuple(pair) for pair in found])
    return found


def _copies(catalog: Catalog, statistics: ImageStatistics) -> tuple[list[Overlap], list[int]]:
    """Pairs of copies, and one image of each set of copies."""
    found: list[Overlap] = []
    names = [image.sha256 for image in catalog.images]
    different = list(range(len(names)))
    for kind, keys in zip(
        COPIES, (names, [row.tobytes() for row in statistics.pixels]), strict=True
    ):
        first: dict[object, int] = {}
        for index in different:
            original = first.setdefault(keys[index], index)
            if original != index:
                found.append(Overlap(original, index, kind))
        different = list(first.values())
    return found, different


def _registered(catalog: Catalog, indices: Sequence[int]) -> Iterator[Overlap]:
    """Pairs of different images that overlap; `indices` refer to the catalog and ascend."""
    files = {catalog.images[i].sha256: catalog.root / catalog.images[i].path for i in indices}
    points = find_keypoints(files, are_small(catalog), catalog.kept)
    place = {index: number for number, index in enumerate(indices)}
    orders = [
        np.asarray([place[i] for i in file_order(catalog, label) if i in place], np.int64)
        for label in range(len(catalog.classes))
    ]
    tried = find_candidates(points, orders)
    best = _laid(points, tried)
    for _ in range(_ROUNDS):
        ends = np.asarray(list(best), np.int64).reshape(-1, 2)
        flags = np.asarray([mirrored for mirrored, _ in best.values()], np.bool_)
        more = find_more(len(indices), Candidates(ends[:, 0], ends[:, 1], flags), tried)
        if not len(more.first):
            break
        columns = zip(vars(tried).values(), vars(more).values(), strict=True)
        tried = Candidates(*(np.concatenate(both) for both in columns))
        best = _laid(points, more) | best
    for (i, j), (_, laid) in best.items():
        kind = "near" if laid.least >= DUPLICATE_SHARE else "overlap"
        figures = (laid.score, laid.dx, laid.dy, laid.overlap)
        yield Overlap(indices[i], indices[j], kind, *(round(value, 4) for value in figures))


def _laid(points: Keypoints, tried: Candidates) -> dict[tuple[int, int], tuple[bool, Registration]]:
    """Pairs that show one field: whether one is mirrored, and their registration."""
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(tried.first), _CHUNK)]

    def register_chunk(chunk: slice) -> list[tuple[int, Registration]]:
        pairs = tried.first[chunk], tried.second[chunk], tried.mirrored[chunk]
        return [(chunk.start + n, laid) for n, laid in register(points, *pairs) if laid.holds]

    best: dict[tuple[int, int], tuple[bool, Registration]] = {}
    for found in _each(register_chunk, chunks):
        for place, laid in found:  # a pair may register both mirrored and as it is
            pair = int(tried.first[place]), int(tried.second[place])
            known = best.setdefault(pair, (bool(tried.mirrored[place]), laid))
            if laid.score > known[1].score:
                best[pair] = bool(tried.mirrored[place]), laid
    return best


def _each(
    register_chunk: Callable[[slice], list[tuple[int, Registration]]], chunks: Sequence[slice]
) -> Iterator[list[tuple[int, Registration]]]:
    from bcd.console import track

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(register_chunk, chunks)
        many = len(chunks) > _MANY
        yield from track(found, "Registering pairs", len(chunks)) if many else found


def components(count: int, pairs: Sequence[Overlap]) -> NDArray[np.int64]:
    """Numbers the connected components of images linked by overlaps, (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    graph = coo_array((np.ones(len(pairs), np.int8), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


class OverlapShares:
    """Looks up how far two images show the same field.

    Copies of an image overlap whatever it overlaps.

    Args:
        count: Number of images.
        pairs: As returned by `find_overlaps`.
    """

    def __init__(self, count: int, pairs: Sequence[Overlap]) -> None:
        self._copies = components(count, [pair for pair in pairs if pair.kind in COPIES])
        self._shares: dict[int, dict[int, float]] = {}
        for pair in pairs:
            if pair.kind not in COPIES:
                a, b = int(self._copies[pair.first]), int(self._copies[pair.second])
                self._shares.setdefault(a, {})[b] = pair.share
                self._shares.setdefault(b, {})[a] = pair.share

    def share(self, first: int, second: int) -> float:
        """Shared area of two images, as `Overlap.share` of their pair; 0 without an overlap."""
        a, b = int(self._copies[first]), int(self._copies[second])
        return 1.0 if a == b else self._shares.get(a, {}).get(b, 0.0)

    def largest(self, index: int, among: Sequence[int]) -> tuple[int, float] | None:
        """Of several images, the one that overlaps an image most, and the shared area.

        Args:
            index: Of the image.
            among: Indices of the others.

        Returns:
            Index and share; None if none of them overlaps it.
        """
        found = max(((i, self.share(index, i)) for i in among), key=lambda it: it[1], default=None)
        return None if found is None or not found[1] else found


def write_pairs(file: Path, catalog: Catalog, pairs: Sequence[Overlap]) -> None:
    """Writes `pairs.csv`: path_a, path_b, kind, score, dx, dy, overlap, as `Overlap` has them."""
    paths = [image.path for image in catalog.images]
    rows = [(paths[p.first], paths[p.second], p.kind, p.score, p.dx, p.dy, p.share) for p in pairs]
    write_csv(file, ("path_a", "path_b", "kind", "score", "dx", "dy", "overlap"), rows)
