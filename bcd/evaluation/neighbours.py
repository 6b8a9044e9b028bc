"""Nearest images by the features of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_CHUNK = 1024  # queries compared at a time


@dataclass(frozen=True)
class Neighbour:
    """The nearest of several images.

    Attributes:
        index: Of the image, in the catalog.
        similarity: Cosine similarity of the two images' features, from -1 to 1.
    """

    index: int
    similarity: float


class NearestSearch:
    """Finds the nearest of many images, of which a part is in memory at a time.

    Args:
        queries: Features, (m, d).

    Attributes:
        found: The nearest of the images added so far, one per query.
    """

    def __init__(self, queries: Floats) -> None:
        self._queries = queries
        self._centre: Floats | None = None
        self.found: list[Neighbour] = []

    def add(self, candidates: Floats, indices: Sequence[int]) -> None:
        """Compares a part of the images with the queries.

        Args:
            candidates: Features, (n, d), with n at least 1. The first part stands for all: its mean
                is subtracted from all features, as in `nearest`.
            indices: Of the candidates in the catalog.
        """
        if self._centre is None:
            self._centre = candidates.mean(axis=0)
        found = nearest(self._queries, candidates, indices, centre=self._centre)
        pairs = zip(self.found or found, found, strict=True)
        self.found = [max(pair, key=lambda one: one.similarity) for pair in pairs]


def nearest(
    queries: Floats,
    candidates: Floats,
    indices: Sequence[int],
    own: Sequence[int | None] | None = None,
    centre: Floats | None = None,
) -> list[Neighbour]:
    """Finds the nearest candidate of each query by cosine similarity.

    The mean of the candidates is subtracted first. Without this, features after a ReLU, which are
    never negative, are similar for any two images.

    Args:
        queries: Features, (m, d).
        candidates: Features, (n, d), with n at least 1, or 2 if the queries are among them.
        indices: Of the candidates in the catalog.
        own: For each query, its row among the candidates, which is left out; None if it has none.
        centre: What is subtracted, (d,); None for the mean of the candidates.

    Returns:
        One neighbour per query.
    """
    centre = candidates.mean(axis=0) if centre is None else centre
    points, asked = _normalized(candidates - centre), _normalized(queries - centre)
    found = []
    for start in range(0, len(asked), _CHUNK):
        similarity = asked[start : start + _CHUNK] @ points.T
        for number, row in enumerate(similarity):
            place = None if own is None else own[start + number]
            if place is not None:
                row[place] = -np.inf
            best = int(row.argmax())
            found.append(Neighbour(indices[best], float(row[best])))
    return found


def _normalized(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
