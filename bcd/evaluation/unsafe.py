"""Unsafe answers: wrong about malignancy, and not referred to a person.

An image is called malignant if its probability of malignancy reaches the decision policy's
threshold, or without a threshold if its most probable class is malignant. An image without an
answer counts as referred. The functions work from booleans, so they also apply to images that are
only known to be benign or malignant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import DRAWS, Groups, effective_groups
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.intervals import wilson
from bcd.evaluation.malignancy import TWO
from bcd.evaluation.paired_tests import Difference, paired_interval

# Shares of the malignant and of the benign images, in the order of tables.
UNSAFE_SHARES = ("unsafe_malignant", "unsafe_benign")

Booleans = NDArray[np.bool_]


def called_malignant(
    policy: DecisionPolicy, probabilities: NDArray[np.floating[Any]], benign: int
) -> Booleans:
    """Which images are called malignant, (n,).

    Args:
        policy: With or without a threshold.
        probabilities: Calibrated, (n, classes); an image with NaN has no answer, is referred, and
            is called anything.
        benign: Index of the benign class.
    """
    called = policy.malignant(probabilities)
    return np.asarray(probabilities.argmax(axis=1) != benign) if called is None else called


def is_unsafe(malignant: Booleans, called: Booleans, refer: Booleans) -> Booleans:
    """Which answers are unsafe.

    Args:
        malignant: The truth, (..., n).
        called: Whether each image is called malignant, (..., n).
        refer: Whether each image is referred, (..., n); true for images without an answer.
    """
    return np.asarray((malignant != called) & ~refer)


def unsafe_metrics(
    malignant: Booleans,
    called: Booleans,
    refer: Booleans,
    groups: Groups | None = None,
    intervals: bool = True,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Shares of unsafe answers among the malignant and among the benign images.

    Intervals are those of sensitivity and specificity (`intervals`): a cluster bootstrap, or
    without any unsafe answer Wilson's interval with the effective number of groups that contain
    such images, so the upper limit is never 0.

    Args:
        malignant: The truth, (n,).
        called: Whether each image is called malignant, (n,).
        refer: Whether each image is referred, (n,); true for images without an answer.
        groups: (n,), group of each image; None if images are independent.
        intervals: Whether to compute them.
        level: Confidence level, between 0 and 1.
        draws: Number of bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        Ready for JSON: `unsafe_malignant` and `unsafe_benign` (shares), with `_ci` appended their
        intervals [low, high], and with `n_` in front the numbers of unsafe answers; `n_malignant`
        and `n_benign` are the numbers of images. A share and its interval are None if there is no
        such image.

    Raises:
        ValueError: There are no images to compute intervals from, or `groups` has another length.
    """
    unsafe = is_unsafe(malignant, called, refer)
    found: dict[str, Any] = {}
    for name, images in zip(UNSAFE_SHARES, (malignant, ~malignant), strict=True):
        found[name] = float(unsafe[images].mean()) if images.any() else None
        found[f"n_{name}"] = int(unsafe[images].sum())
        found[f"n_{name.removeprefix('unsafe_')}"] = int(images.sum())
    if not intervals:
        return found
    # With every unsafe answer as the only kind of mistake, the shares are 1 - sensitivity and
    # 1 - specificity.
    safe = confusion_intervals(
        malignant.astype(np.int64), (malignant ^ unsafe).astype(np.int64),
        TWO, 0, groups, level, draws, seed,
    )  # fmt: skip
    for name, rate in zip(UNSAFE_SHARES, ("sensitivity", "specificity"), strict=True):
        interval = safe[f"malignant_{rate}"]
        found[f"{name}_ci"] = interval and [1 - interval[1], 1 - interval[0]]
    return found


def unsafe_differences(
    malignant: Booleans,
    a: Booleans,
    b: Booleans,
    groups: Groups | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Difference]:
    """Paired differences of the shares of unsafe answers between two models, b minus a.

    The intervals are those of `paired_interval` over the malignant or the benign images alone. If
    the same answers of both models are unsafe, perhaps none, a difference was not seen, but not
    excluded either: the limits are then those of `wilson` for no event in as many images, or
    effective groups.

    Args:
        malignant: The truth, (n,).
        a: Whether each answer of model a is unsafe, (n,).
        b: Whether each answer of model b is unsafe, (n,).
        groups: (n,), group of each image; None if images are independent.
        level: Confidence level, between 0 and 1.
        draws: Number of bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        By the names in `UNSAFE_SHARES`; a share of no images is absent.
    """
    found: dict[str, Difference] = {}
    for name, images in zip(UNSAFE_SHARES, (malignant, ~malignant), strict=True):
        if not images.any():
            continue
        own = None if groups is None else np.asarray(groups)[images]
        of_a, of_b = a[images], b[images]
        if np.array_equal(of_a, of_b):
            most = wilson(0, effective_groups(own) or len(of_a), level)[1]
            found[name] = Difference(0.0, -most, most)
            continue
        # With unsafe answers as the only mistakes, a's accuracy minus b's is b's share minus a's.
        first, second = of_a.astype(np.int64), of_b.astype(np.int64)
        same_class = np.zeros(len(first), np.int64)
        paired = paired_interval(same_class, first, second, 2, own, level, draws, seed)
        found[name] = paired["accuracy"]
    return found
