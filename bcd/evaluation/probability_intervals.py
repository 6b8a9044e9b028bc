"""Confidence intervals of the figures that need probabilities, by the jackknife of `intervals`.

What a figure is without a group is exact for all of them, AUROC too: only the pairs that a group is
part of are taken away. So none needs draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.calibration import BINS, SMALLEST, binned_gaps, calibration_error
from bcd.evaluation.intervals import (
    Clusters,
    Floats,
    Groups,
    Interval,
    cluster,
    group_numbers,
    limits,
)
from bcd.evaluation.metrics import brier_scores, losses


def probability_intervals(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    groups: Groups | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Intervals of AUROC, loss, Brier score and expected calibration error.

    That of `ece` is an interval of the figure as it is measured: noise alone lifts it above 0, the
    more so the fewer the pictures, so the interval of a model that is calibrated misses 0.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,), indices into `classes`.
        classes: Class names.
        groups: (n,), what each picture belongs to; None where pictures are independent.
        level: Of confidence, between 0 and 1.

    Returns:
        By the names of `compute_metrics`: (low, high), or a dict of them by class; None where the
        figure is None.

    Raises:
        ValueError: There is no picture, or not a group for each.
    """
    places = group_numbers(groups, len(labels))
    clusters = cluster(labels, len(classes), places)
    sizes = clusters.codes.sum(axis=1)
    g, n = len(sizes), len(labels)
    found: dict[str, Any] = {}
    spans = {"loss": -float(np.log(SMALLEST)), "brier": 2.0}
    for name, each in (
        ("loss", losses(probabilities, labels)),
        ("brier", brier_scores(probabilities, labels)),
    ):
        without = (each.sum() - np.bincount(places, each)) / np.maximum(n - sizes, 1)
        found[name] = _pair(clusters, each.mean(), without, sizes, level, spans[name])
    bins, gaps = binned_gaps(probabilities, labels)
    sums = np.bincount(places * BINS + bins, gaps, minlength=g * BINS).reshape(g, BINS)
    total = sums.sum(axis=0)
    without = calibration_error(total - sums, n - sizes)
    found["ece"] = _pair(clusters, calibration_error(total, n), without, sizes, level)
    return found | _auroc_intervals(clusters, probabilities, labels, places, classes, level)


def _auroc_intervals(
    clusters: Clusters,
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    places: NDArray[np.int64],
    classes: Sequence[str],
    level: float,
) -> dict[str, Any]:
    """Intervals of AUROC, by class and of the mean over the classes that have one."""
    sizes = clusters.codes.sum(axis=1)
    by_class: dict[str, Interval | None] = dict.fromkeys(classes)
    values, lefts, owns = [], [], []
    for index, name in enumerate(classes):
        truth = labels == index
        if truth.all() or not truth.any():
            continue
        value, without = auroc_without(probabilities[:, index], truth, places)
        own = np.stack([clusters.codes[:, index], sizes - clusters.codes[:, index]], axis=1)
        by_class[name] = _pair(clusters, value, without, sizes, level, classes=own)
        values.append(value)
        lefts.append(without)
        owns.append(own)
    if not values:
        return {"auroc": None, "auroc_by_class": by_class}
    mean = _pair(
        clusters,
        np.mean(values),
        np.mean(lefts, axis=0),
        sizes,
        level,
        classes=np.concatenate(owns, axis=1),
    )
    return {"auroc": mean, "auroc_by_class": by_class}


def auroc_without(
    scores: NDArray[np.floating[Any]], truth: NDArray[np.bool_], places: NDArray[np.int64]
) -> tuple[float, Floats]:
    """Area under the ROC curve, and what it is without each group.

    The area is the share of pairs (one true, one not) in which the true one has the higher score,
    ties counting half. A group takes away the pairs of its pictures with all others; those within
    the group are in both of its sums, and are put back once.

    Args:
        scores: (n,).
        truth: (n,), some true and some not.
        places: (n,), number of each picture's group, without gaps.

    Returns:
        The area, and areas (groups,); NaN where a group holds all that is true or all that is not.
    """
    g = int(places.max()) + 1
    won = np.zeros(len(scores))
    won[truth] = _wins(scores[truth], scores[~truth])
    won[~truth] = truth.sum() - _wins(scores[~truth], scores[truth])
    pairs = won[truth].sum()
    own_true = np.bincount(places, truth, minlength=g)
    own_false = np.bincount(places, ~truth, minlength=g)
    within = np.zeros(g)
    for group in np.flatnonzero((own_true > 0) & (own_false > 0)):
        inside = places == group
        within[group] = _wins(scores[inside & truth], scores[inside & ~truth]).sum()
    left = pairs - np.bincount(places, won, minlength=g) + within
    most = (truth.sum() - own_true) * ((~truth).sum() - own_false)
    without = np.divide(left, most, out=np.full(g, np.nan), where=most > 0)
    return float(pairs / (truth.sum() * (~truth).sum())), without


def _wins(scores: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> Floats:
    """How many of `others` (m,) each of `scores` (n,) exceeds; ties count half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    half: Floats = below / 2
    return half


def _pair(
    clusters: Clusters,
    value: Any,
    without: Floats,
    sizes: Floats,
    level: float,
    most: float = 1.0,
    classes: Floats | None = None,
) -> Interval:
    """The interval of one figure between 0 and `most`."""
    low, high = limits(
        clusters, np.asarray(value), without, sizes, level, span=(0.0, most), classes=classes
    )
    return float(low), float(high)
