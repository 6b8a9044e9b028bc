"""Which answers a person should look at: errors, doubtful and sure ones, and confused pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WRONG, DOUBTFUL, SUREST = 24, 12, 2  # most shown; the surest ones of each class

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Examples:
    """Rows of answers to look at.

    Attributes:
        wrong: Errors, the most confident first.
        doubtful: Right answers with the smallest margin, the smallest first.
        surest: Right answers with the highest probability, by class.
    """

    wrong: tuple[int, ...]
    doubtful: tuple[int, ...] = ()
    surest: tuple[int, ...] = ()

    @property
    def rows(self) -> list[int]:
        """All rows, each once."""
        return list(dict.fromkeys((*self.wrong, *self.doubtful, *self.surest)))


def choose_examples(probabilities: Floats, labels: NDArray[np.int64], full: bool) -> Examples:
    """Chooses answers to look at; ties keep the order of the rows.

    Args:
        probabilities: Finite, (n, classes).
        labels: (n,).
        full: Whether to choose right answers too; a brief choice has errors alone.
    """
    best, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(best != labels)
    chosen = tuple(wrong[np.argsort(-top[wrong], kind="stable")][:WRONG].tolist())
    if not full:
        return Examples(chosen)
    right = np.flatnonzero(best == labels)
    doubtful = right[np.argsort(margins(probabilities)[right], kind="stable")][:DOUBTFUL]
    surest: list[int] = []
    for k in np.unique(labels):
        own = right[labels[right] == k]
        own = own[~np.isin(own, doubtful)]
        surest += own[np.argsort(-top[own], kind="stable")][:SUREST].tolist()
    return Examples(chosen, tuple(doubtful.tolist()), tuple(surest))


def margins(probabilities: Floats) -> NDArray[np.float64]:
    """Highest minus second highest probability of each row, (n,); 1 with a single class."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2], np.float64)


def confused_pairs(
    labels: Sequence[int] | NDArray[np.int64],
    predicted: Sequence[int] | NDArray[np.int64],
    classes: Sequence[str],
    most: int = 6,
    words: str = "called",
) -> list[str]:
    """Says which classes are confused, as in `Pre-B called Pro-B: 5 of 120 (4.2 %)`.

    The share is that of the images of the true class.

    Args:
        labels: True class of each image.
        predicted: Predicted class of each image.
        classes: Names of the classes.
        most: Largest number of pairs, those with most images first.
        words: Between the true and the other class.
    """
    totals = Counter(int(k) for k in labels)
    pairs = Counter((int(a), int(b)) for a, b in zip(labels, predicted, strict=True) if a != b)
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [
        f"{classes[a]} {words} {classes[b]}: {n} of {totals[a]} ({100 * n / totals[a]:.1f} %)"
        for (a, b), n in ordered
    ]
