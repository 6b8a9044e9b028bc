"""Sets of classes that hold the true one as often as promised, and what abstaining buys.

Split conformal prediction with the plainest score, the probability of the true class: of all
scores that keep the promise over all images together, it gives the smallest sets. Scores that add
up the classes in order (APS, RAPS) even out the coverage of easy and hard images, with larger
sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups
from bcd.evaluation.thresholds import Limit, lower_limit

if TYPE_CHECKING:
    pass

Floats = NDArray[np.floating[Any]]

_ROUNDING = 1e-9  # by so much a product may miss a whole number


def conformal_threshold(
    probabilities: Floats,
    labels: NDArray[np.int64],
    coverage: float = 0.95,
    groups: Groups | None = None,
) -> Limit:
    """Finds the probability from which on a class belongs to the set of a new image.

    Without groups it is the r-th smallest probability of a true class,
    r = floor((n + 1) (1 - coverage)). A new image that is exchangeable with these n then has its
    class in its set with a chance of 1 - r / (n + 1) or more; without ties, at most 1 / (n + 1)
    above `coverage`. With groups, see `bcd.evaluation.thresholds`.

    Args:
        probabilities: (n, classes), n at least 1, of images the model was not trained on.
        labels: (n,).
        coverage: Wanted share of sets that hold the true class, between 0 and 1.
        groups: (n,), what each image belongs to; None where each stands for itself.

    Returns:
        The threshold, and the share of sets that may lack the true class: more than was wanted
        where n or the number of groups is too small.
    """
    return lower_limit(probabilities[np.arange(len(labels)), labels], 1 - coverage, groups)


def prediction_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which classes (n, classes) are in the set of each image.

    Where the model is right more often than was promised, some sets are empty: the image is like
    no class as images of that class usually are.

    Args:
        probabilities: (n, classes).
        threshold: Of `conformal_threshold`.
    """
    sets: NDArray[np.bool_] = probabilities >= threshold
    return sets


def set_figures(
    sets: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """What sets are worth, as plain data.

    Args:
        sets: (n, classes), n at least 1.
        labels: (n,).
        classes: Class names.

    Returns:
        `coverage`, `coverage_by_class` (None for a class that does not occur), `mean_size` and
        `single`, the share of sets with one class.
    """
    held = sets[np.arange(len(labels)), labels]
    sizes = sets.sum(axis=1)
    own = [held[labels == c] for c in range(len(classes))]
    return {
        "coverage": float(held.mean()),
        "coverage_by_class": {
            name: float(h.mean()) if len(h) else None for name, h in zip(classes, own, strict=True)
        },
        "mean_size": float(sizes.mean()),
        "single": float((sizes == 1).mean()),
    }


def risk_coverage(
    confidence: Floats, correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of mistakes among the surest images, for every number of them that is kept.

    Images that tie count with the mean of their block, so the order of the images is nothing.

    Args:
        confidence: (n,), higher is surer; n at least 1.
        correct: (n,).

    Returns:
        Shares kept (n,), from 1 / n to 1, and shares of mistakes (n,).
    """
    _, block, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(block, ~correct, minlength=len(sizes)) / sizes
    kept = np.arange(1, len(confidence) + 1)
    return kept / len(confidence), np.repeat(share, sizes).cumsum() / kept


def area_under_risk(risk: NDArray[np.float64]) -> float:
    """Mean share of mistakes over all numbers of images kept; `risk` is `risk_coverage`'s."""
    return float(risk.mean())


def selective_accuracy(
    confidence: Floats,
    correct: NDArray[np.bool_],
    coverages: Sequence[float] = (1.0, 0.98, 0.95, 0.9),
) -> dict[str, float]:
    """Accuracy where only the surest images are decided, the others referred.

    Args:
        confidence: (n,), higher is surer; n at least 1.
        correct: (n,).
        coverages: Shares to decide, above 0 and up to 1; rounded up to whole images.

    Returns:
        By coverage as text, so that JSON keeps it.
    """
    _, risk = risk_coverage(confidence, correct)
    kept = [max(int(np.ceil(c * len(risk) - _ROUNDING)), 1) for c in coverages]
    return {f"{c:g}": float(1 - risk[k - 1]) for c, k in zip(coverages, kept, strict=True)}
