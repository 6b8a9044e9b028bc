"""Conformal prediction sets with guaranteed coverage, and selective accuracy.

Split conformal prediction (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world",
2005) with the probability of the true class as score. Of all scores with the same marginal coverage
it gives the smallest sets (Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with
bounded error levels", 2019). Scores that add up the classes in order, APS (Romano et al. 2020) and
RAPS (Angelopoulos et al. 2021), even out the coverage of easy and hard images with larger sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups
from bcd.evaluation.thresholds import Limit, lower_limit

Floats = NDArray[np.floating[Any]]

_ROUNDING = 1e-9  # tolerance for a product that should be an integer


def conformal_threshold(
    probabilities: Floats,
    labels: NDArray[np.int64],
    coverage: float = 0.95,
    groups: Groups | None = None,
) -> Limit:
    """Finds the lowest probability at which a class belongs to the prediction set of a new image.

    Without groups it is the r-th smallest probability of a true class, r = floor((n + 1)
    (1 - coverage)). The set of a new image that is exchangeable with these n then contains its true
    class with probability 1 - r / (n + 1) or more; without ties, at most 1 / (n + 1) above
    `coverage`. For groups, see `bcd.evaluation.thresholds`.

    Args:
        probabilities: (n, classes), n at least 1, of images that the model was not trained on.
        labels: (n,).
        coverage: Target share of sets that contain the true class, between 0 and 1.
        groups: (n,), group of each image; None if images are independent.

    Returns:
        The threshold, and the share of sets that may miss the true class: larger than the target if
        n or the number of groups is too small.
    """
    return lower_limit(probabilities[np.arange(len(labels)), labels], 1 - coverage, groups)


def prediction_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which classes (n, classes) are in the prediction set of each image.

    If the model is more accurate than the target coverage, some sets are empty: the image is
    atypical of all classes.

    Args:
        probabilities: (n, classes).
        threshold: From `conformal_threshold`.
    """
    sets: NDArray[np.bool_] = probabilities >= threshold
    return sets


def set_metrics(
    sets: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Coverage and size of prediction sets.

    Args:
        sets: (n, classes), n at least 1.
        labels: (n,).
        classes: Class names.

    Returns:
        `coverage`, `coverage_by_class` (None for a class that does not occur), `mean_size` and
        `singleton_share`, the share of sets with a single class.
    """
    covered = sets[np.arange(len(labels)), labels]
    sizes = sets.sum(axis=1)
    by_class = [covered[labels == c] for c in range(len(classes))]
    return {
        "coverage": float(covered.mean()),
        "coverage_by_class": {
            name: float(values.mean()) if len(values) else None
            for name, values in zip(classes, by_class, strict=True)
        },
        "mean_size": float(sizes.mean()),
        "singleton_share": float((sizes == 1).mean()),
    }


def risk_coverage(
    confidence: Floats, correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Error rate among the most confident images, for each number of images kept.

    The risk-coverage curve of El-Yaniv and Wiener, "On the foundations of noise-free selective
    classification", 2010. Tied images get the mean error of their tie, so the order of the images
    does not matter.

    Args:
        confidence: (n,), higher is more confident; n at least 1.
        correct: (n,).

    Returns:
        Shares kept (n,), from 1 / n to 1, and error rates (n,).
    """
    _, block, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(block, ~correct, minlength=len(sizes)) / sizes
    kept = np.arange(1, len(confidence) + 1)
    return kept / len(confidence), np.repeat(share, sizes).cumsum() / kept


def aurc(risk: NDArray[np.float64]) -> float:
    """Area under the risk-coverage curve: the mean error rate over all numbers of images kept.

    Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers",
    2019.

    Args:
        risk: (n,), from `risk_coverage`.
    """
    return float(risk.mean())


def selective_accuracy(
    confidence: Floats,
    correct: NDArray[np.bool_],
    coverages: Sequence[float] = (1.0, 0.98, 0.95, 0.9),
) -> dict[str, float]:
    """Accuracy if only the most confident images are decided and the others are referred.

    Args:
        confidence: (n,), higher is more confident; n at least 1.
        correct: (n,).
        coverages: Shares to decide, above 0 and up to 1; rounded up to whole images.

    Returns:
        By coverage as text, as JSON keys are text.
    """
    _, risk = risk_coverage(confidence, correct)
    kept = [max(int(np.ceil(c * len(risk) - _ROUNDING)), 1) for c in coverages]
    return {f"{c:g}": float(1 - risk[k - 1]) for c, k in zip(coverages, kept, strict=True)}
