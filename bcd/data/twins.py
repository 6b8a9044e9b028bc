"""Twins: pictures that show the same field of the same slide, whatever their files are called.

Candidates are found by a description of the field that turning, mirroring and shifting hardly
change; each is then laid over the other in eight orientations and judged by correlation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.looks import GREY, Looks
from bcd.storage import cache_dir, write_text

_VERSION = 1  # raise it when the same pictures give other twins

KINDS = ("bytes", "pixels", "near")

# On the 2,454 real smears at hand, pairs of different fields reach 0.45 at the most (none of the
# 70,000 most alike more) and pairs of the same field, also photographed again, start at 0.5.
ALIKE = 0.6
_NEIGHBOURS = 12  # candidates a picture
_CANDIDATE = 0.6  # least likeness of descriptions
_REACH = GREY // 6  # largest shift, in pixels of the small grey field
_HIGHEST = 9  # spatial frequencies of the description, in waves a field
_FLAT = 2.0  # grey values: a field with less contrast than this shows nothing to compare
_CHUNK = 512
_MANY = 40  # chunks from which on a progress bar is worth its line


@dataclass(frozen=True)
class Twin:
    """Two pictures of one field.

    Attributes:
        first: Index in the catalog.
        second: Likewise, larger.
        kind: One of `KINDS`: same bytes, same decoded pixels, or alike.
        likeness: Correlation of the two, 1 at the most.
    """

    first: int
    second: int
    kind: str
    likeness: float


def find_twins(catalog: Catalog, look: Callable[[], Looks]) -> list[Twin]:
    """Finds the pairs of pictures that show the same field; remembers them.

    Of more than two pictures that are the same to the byte or pixel, each is paired with the first.

    Args:
        catalog: The pictures.
        look: Gives the looks of the same; asked only where the twins are not remembered.

    Returns:
        Pairs, by their indices.
    """
    names = [picture.sha256 for picture in catalog.pictures]
    digest = hashlib.sha256("\n".join([str(_VERSION), *names]).encode()).hexdigest()
    file = cache_dir() / "twins" / f"{digest[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [Twin(*row) for row in json.loads(file.read_text(encoding="utf-8"))]
    looks = look()
    twins: list[Twin] = []
    different = list(range(len(names)))  # one of each set of equals
    for kind, keys in (("bytes", names), ("pixels", [row.tobytes() for row in looks.pixels])):
        first: dict[object, int] = {}
        for index in different:
            original = first.setdefault(keys[index], index)
            if original != index:
                twins.append(Twin(original, index, kind, 1.0))
        different = list(first.values())
    twins += _alike(looks.grey[different], different)
    twins.sort(key=lambda twin: (twin.first, twin.second))
    with contextlib.suppress(OSError):  # without a memory the next run looks again, no more
        write_text(file, json.dumps([list(vars(twin).values()) for twin in twins]))
    return twins


def clusters(count: int, twins: Sequence[Twin]) -> NDArray[np.int64]:
    """Numbers the sets of pictures that hang together by twins, (count,); twins share a number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = [t.first for t in twins], [t.second for t in twins]
    graph = coo_array((np.ones(len(twins), np.int8), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _alike(grey: NDArray[np.uint8], indices: Sequence[int]) -> Iterator[Twin]:
    """Pairs of fields that are alike; `indices` are the catalog's."""
    from bcd.console import track

    fields, contrast = details(grey)
    firsts, seconds = _candidates(fields, contrast)
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(firsts), _CHUNK)]

    def judge(chunk: slice) -> NDArray[np.float32]:
        return likeness(fields[firsts[chunk]], fields[seconds[chunk]])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        judged = pool.map(judge, chunks)
        if len(chunks) > _MANY:
            judged = track(judged, "Comparing the pictures", len(chunks))
        for chunk, values in zip(chunks, judged, strict=True):
            for place in np.flatnonzero(values >= ALIKE):
                pair = indices[firsts[chunk][place]], indices[seconds[chunk][place]]
                yield Twin(*pair, "near", round(float(values[place]), 4))


def details(grey: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Fields (n, 32, 32) without uneven light, of mean 0 and length 1; and their contrast (n,).

    Uneven light is whatever a surface of third degree follows.
    """
    place = np.linspace(-1, 1, GREY)
    y, x = np.meshgrid(place, place, indexing="ij")
    terms = [(x**i * y**j).ravel() for i in range(4) for j in range(4 - i)]
    smooth = np.linalg.qr(np.stack(terms, axis=1))[0].astype(np.float32)
    fields, contrast = np.empty(grey.shape, np.float16), np.empty(len(grey), np.float32)
    for start in range(0, len(grey), _CHUNK):
        part = slice(start, start + _CHUNK)
        flat = grey[part].reshape(-1, GREY * GREY).astype(np.float32)
        flat -= (flat @ smooth) @ smooth.T
        contrast[part] = flat.std(axis=1)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        fields[part] = flat.reshape(-1, GREY, GREY)
    # Half precision: for many pictures this is the largest thing in memory.
    return fields, contrast


def _candidates(
    fields: NDArray[np.float16], contrast: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs worth a closer look: each field with those whose description is most like its own."""
    from sklearn.neighbors import NearestNeighbors

    shown = np.flatnonzero(contrast >= _FLAT)
    if len(shown) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    parts = range(0, len(shown), _CHUNK)
    texts = np.concatenate([_descriptions(fields[shown[i : i + _CHUNK]]) for i in parts])
    finder = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(shown) - 1), algorithm="brute")
    distance, found = finder.fit(texts).kneighbors()
    # Descriptions have length 1, so that their product is 1 - distance**2 / 2.
    near = 1 - distance**2 / 2 >= _CANDIDATE
    own = np.repeat(np.arange(len(shown)), near.sum(axis=1))
    pairs = np.unique(np.sort(np.stack([own, found[near]], axis=1), axis=1), axis=0)
    return shown[pairs[:, 0]], shown[pairs[:, 1]]


def _descriptions(fields: NDArray[np.float16]) -> NDArray[np.float32]:
    """Describes fields (n, 32, 32) by the strength of their waves, (n, d), of length 1.

    Shifting a field leaves the strengths as they are; turning it by right angles and mirroring it
    swaps those of waves in mirrored directions, which are put in order of strength.
    """
    window = np.hanning(GREY).astype(np.float32)
    strength = np.abs(np.fft.fft2(fields.astype(np.float32) * window[:, None] * window))
    found = []
    for y in range(_HIGHEST):
        for x in range(y + 1):
            if (y, x) != (0, 0):
                swapped = {(y, x), (y, -x), (x, y), (x, -y)}
                found.append(np.sort(np.stack([strength[:, a, b] for a, b in swapped], 1), axis=1))
    texts = np.concatenate(found, axis=1)
    texts = np.log(texts / np.maximum(texts.mean(axis=1, keepdims=True), 1e-12) + 0.1)
    texts -= texts.mean(axis=1, keepdims=True)
    return np.asarray(texts / np.linalg.norm(texts, axis=1, keepdims=True), np.float32)


def likeness(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
    """Largest correlation of pairs of fields over eight orientations and small shifts.

    Args:
        first: Fields of mean 0 and length 1, (n, 32, 32).
        second: Likewise.

    Returns:
        (n,), -1 to 1.
    """
    from scipy import fft

    first, second = first.astype(np.float32), second.astype(np.float32)
    waves = fft.rfft2(first)
    reach = np.r_[0 : _REACH + 1, GREY - _REACH : GREY]
    best = np.full(len(first), -1, np.float32)
    for turned in (second, second.transpose(0, 2, 1)):
        for other in (turned, turned[:, ::-1], turned[:, :, ::-1], turned[:, ::-1, ::-1]):
            laid = fft.irfft2(waves * np.conj(fft.rfft2(other)), s=(GREY, GREY))
            best = np.maximum(best, laid[:, reach[:, None], reach].max(axis=(1, 2)))
    return best
