"""Predictions with a known accuracy, on images of few groups that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

CLASSES = ("Benign", "Early", "Pre", "Pro")
SHARES = np.array([0.15, 0.3, 0.3, 0.25])

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Distribution of images, and the accuracy of a classifier on them.

    Attributes:
        accuracy: Over all groups.
        groups: Number of groups; None: images are independent.
        icc: Correlation of correctness within a group: group accuracies follow the beta
            distribution with variance icc * accuracy * (1 - accuracy).
        uneven: Standard deviation of the logarithm of a group's size.
        images: Approximate number of images.
    """

    accuracy: float = 0.9
    groups: int | None = None
    icc: float = 0.2
    uneven: float = 0.7
    images: int = 700

    def __str__(self) -> str:
        if self.groups is None:
            return f"{self.images} independent, accuracy {self.accuracy:g}"
        kind = {0.0: "equal", 0.7: "unequal"}.get(self.uneven, "very unequal")
        return (
            f"{self.images} in {self.groups} {kind} groups, accuracy {self.accuracy:g}, "
            f"ICC {self.icc:g}"
        )


class Answers(NamedTuple):
    """Labels (n,), predictions (n,), and groups (n,) if there are any."""

    labels: Numbers
    predictions: Numbers
    owners: Numbers | None


def sizes(rng: np.random.Generator, world: World) -> Numbers:
    """Images of each group, at least 1."""
    assert world.groups is not None
    weights = rng.lognormal(sigma=world.uneven, size=world.groups)
    found: Numbers = np.maximum((world.images * weights / weights.sum()).astype(np.int64), 1)
    return found


def easiness(
    rng: np.random.Generator, count: int, means: Floats | list[float], icc: float
) -> Floats:
    """Accuracies (count, len(means)) of groups; an easy group is easy in all of them."""
    means = np.asarray(means, np.float64)
    if icc == 0:
        return np.tile(means, (count, 1))
    worth = (1 - icc) / icc
    place = rng.random((count, 1))
    found: Floats = betaincinv(worth * means, worth * (1 - means), place)
    return found


def class_accuracies(accuracy: float) -> Floats:
    """Accuracies of the classes, which are not equally hard."""
    return 1 - (1 - accuracy) * np.linspace(0.5, 1.5, len(SHARES))


def true_matrix(accuracy: float) -> Floats:
    """Share of all images by true class (rows) and predicted class (columns)."""
    right, k = class_accuracies(accuracy), len(SHARES)
    off = (1 - np.eye(k)) * ((1 - right) / (k - 1))[:, None]
    return np.asarray(SHARES[:, None] * (off + np.diag(right)))


def answers(rng: np.random.Generator, world: World) -> Answers:
    """Draws labels and predictions; images of a group share their class mix and difficulty."""
    k, n = len(SHARES), world.images
    if world.groups is None:
        owners, mix = None, np.tile(SHARES, (n, 1))
        right = np.tile(class_accuracies(world.accuracy), (n, 1))
    else:
        owners = np.repeat(np.arange(world.groups), sizes(rng, world))
        n = len(owners)
        mix = rng.dirichlet(4 * SHARES, world.groups)[owners]
        easy = easiness(rng, world.groups, class_accuracies(world.accuracy), world.icc)
        right = easy[owners]
    labels = np.minimum((mix.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), k - 1)
    wrong = rng.random(n) >= right[np.arange(n), labels]
    return Answers(labels, (labels + wrong * rng.integers(1, k, n)) % k, owners)
