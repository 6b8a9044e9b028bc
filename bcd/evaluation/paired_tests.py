"""Statistics for two models on the same images: paired intervals, McNemar's and sign-flip tests.

`comparison` applies them to results; `bcd.sweeps.multiple_comparisons` compares many models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import (
    DRAWS,
    Clusters,
    Floats,
    Groups,
    bootstrap,
    cluster,
    group_ids,
    standard_error,
)
from bcd.evaluation.metrics import LOWEST, confusion_metrics


class Difference(NamedTuple):
    """A metric of one model minus that of another, with its confidence interval."""

    value: float
    low: float
    high: float


def paired_interval(
    labels: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    k: int,
    groups: Groups | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Difference]:
    """Intervals of the differences between two models, a minus b.

    Each group (or image) is drawn for both models at once, so what is hard for both cancels out.
    Otherwise the method is that of `intervals`, on the linear scale. By chance, groups can be more
    similar than independent images would be, especially if the models disagree on few images, so
    the standard error is never below that of independent images. Percentage of 500 simulated ties
    in which the 95 % interval of accuracy / macro F1 contained 0:

    | images, accuracy of both                       |               |
    |------------------------------------------------|---------------|
    | 700 independent, 0.9                           | 95.0 / 95.6   |
    | 700 independent, 0.99                          | 97.4 / 97.4   |
    | 100 independent, 0.9                           | 97.8 / 98.0   |
    | 700 in 40 unequal groups, 0.9                  | 95.0 / 95.0   |
    | 700 in 15 very unequal groups, 0.9             | 95.4 / 95.0   |
    | 700 in 15 very unequal groups, 0.97            | 97.4 / 97.8   |
    | 700 in 25 very unequal groups, 0.99            | 100.0 / 100.0 |

    If fewer than about ten images are correct for one model alone, `paired_p_value` is more
    reliable. docs/promises.md has more cases. Neither can detect the following: over 8 groups, two
    equally accurate models, one equally good on all groups and the other rarely very bad, were
    declared different in 15 per cent of cases, since most sets of 8 groups contain no bad group.

    Args:
        labels: (n,), true classes.
        a: (n,), predictions of one model.
        b: (n,), predictions of the other model for the same images.
        k: Number of classes.
        groups: (n,), group of each image; None if images are independent.
        level: Confidence level, between 0 and 1.
        draws: Number of bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        By the names of `compute_metrics`, for metrics over all classes. Exactly 0, 0, 0 if the
        models agree on all images. With a single group, the limits are the largest and smallest
        possible difference.

    Raises:
        ValueError: There are no images, or `groups` has another length.
    """
    from scipy.stats import t

    codes = (labels * k + a) * k + b
    clusters = cluster(codes, k**3, groups)
    value, error = _differences(clusters, k, draws, seed)
    if groups is not None:
        _, least = _differences(cluster(codes, k**3, None), k, draws, seed)
        error = {name: np.maximum(e, least[name]) for name, e in error.items()}
    effective = float(clusters.effective(clusters.codes.sum(axis=1)))
    quantile = t.ppf((1 + level) / 2, max(effective - 1, 1))
    same = np.array_equal(a, b)
    found: dict[str, Difference] = {}
    for name, difference in value.items():
        most = 1.0 - LOWEST.get(name, 0.0)
        half = 0.0 if same else float(np.nan_to_num(quantile * error[name], nan=2 * most))
        low, high = np.clip((difference - half, difference + half), -most, most)
        found[name] = Difference(float(difference), float(low), float(high))
    return found


def _differences(
    clusters: Clusters, k: int, draws: int, seed: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Differences by name and their standard errors, of clusters of (label, a, b)."""
    cells = clusters.codes.reshape(-1, k, k, k)
    of_a, of_b = cells.sum(axis=3), cells.sum(axis=2)

    def metrics(weights: Floats) -> dict[str, Floats]:
        first, second = (confusion_metrics(np.tensordot(weights, m, axes=1)) for m in (of_a, of_b))
        return {n: first[n] - second[n] for n in first if not n.endswith("_by_class")}

    by_class = of_a.sum(axis=2)
    value = {name: values[0] for name, values in metrics(clusters.times[None]).items()}
    sizes = {name: by_class.sum(axis=1) if name == "accuracy" else by_class for name in value}
    samples = bootstrap(clusters, metrics, sizes, draws, seed)
    return value, {n: standard_error(clusters, samples[n], sizes[n]) for n in value}


def paired_p_value(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    groups: Groups | None = None,
    draws: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the hypothesis that two models are equally accurate.

    Without groups this is McNemar's exact test. With groups it is a sign-flip permutation test: the
    sign of each group's difference in correct predictions is random under the hypothesis, however
    similar the images of a group are (Good, "Permutation, parametric and bootstrap tests of
    hypotheses", 2005; the p-value counts the observed value as a draw, Phipson and Smyth 2010).

    Args:
        a: (n,), whether one model is correct.
        b: (n,), whether the other model is correct on the same images.
        groups: (n,), group of each image; None if images are independent.
        draws: Number of random sign patterns.
        seed: Of the random signs.
    """
    if groups is None:
        return mcnemar_p_value(int((a & ~b).sum()), int((b & ~a).sum()))
    gains = np.bincount(group_ids(groups, len(a)), b.astype(np.int64) - a.astype(np.int64))
    steps, times = np.unique(np.abs(gains.astype(np.int64)), return_counts=True)
    # Number of groups with the same absolute difference whose sign is positive.
    up = np.random.default_rng(seed).binomial(times, 0.5, (draws, len(steps)))
    as_far = np.abs((2 * up - times) @ steps) >= abs(gains.sum())
    return float((1 + as_far.sum()) / (1 + draws))


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's test in its exact binomial form.

    McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", 1947.

    Args:
        only_a: Number of images that the first model alone predicted correctly.
        only_b: Number of images that the second model alone predicted correctly.
    """
    from scipy.stats import binomtest

    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def verdict(accuracy: Difference, p_value: float, level: float = 0.95) -> str:
    """States in one sentence whether one of two models is better.

    Interval and p-value must both show a difference: the interval is too narrow if few images are
    correct for one model alone. Both must be computed with the same groups.

    Args:
        accuracy: Of model b minus that of model a.
        p_value: From `paired_p_value`.
        level: Confidence level, between 0 and 1.
    """
    value, low, high = (100 * x for x in accuracy)
    if low <= 0 <= high or p_value >= 1 - level:
        return f"not distinguishable: b - a = {value:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if value < 0:
        return f"a is better by {-value:.1f} points [{-high:.1f}, {-low:.1f}]"
    return f"b is better by {value:.1f} points [{low:.1f}, {high:.1f}]"
