"""Confidence intervals of a model's figures, over images or over groups of alike images.

The standard error comes from a cluster bootstrap: whole groups (slides, patients; else images)
are drawn with replacement, 2,000 times. The limits are those of Student's t on the logit scale,
with the effective number of groups, (sum of sizes)^2 / sum of squared sizes, minus 1, as degrees of
freedom, so that a few large groups count as few. Where mistakes sit in one or two groups, these
alone decide the standard error, and the degrees of freedom are those that its fourth moment leaves
(Satterthwaite's, see `bootstrap.freedoms`), if these are fewer.

The percentiles of the same draws were not taken as limits: they cover too little where groups are
few or mistakes rare. What both cover, by number of groups and by how much these differ, and the
worst case that a search found, is tabled in docs/promises.md. With fewer than 15 groups of equal
size's worth, 95 % intervals can be too narrow, and reports say so.

Where there is no mistake at all, or all draws agree, nothing shows how alike the images of a
group are. The limit is then Wilson's for as many trials as there are effective groups: the worst
case, in which a group is right or wrong as a whole. With images counted instead, accuracy and
sensitivities were covered in as few as 78 to 85 per cent where the images of 15 groups are much
alike. So a flawless result on few groups can have a wider interval than one with a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import (
    DRAWS,
    Clusters,
    Floats,
    Groups,
    bootstrap,
    cluster,
    freedoms,
    standard_error,
)
from bcd.evaluation.metrics import OF_CLASS, matrix_figures

Interval = tuple[float, float]

FEW_GROUPS = 15  # of equal size; with fewer, intervals come with a warning
WORST_OF_FEW = 0.8  # what they held at least in the worst case found; see docs/promises.md
_ROUNDING = 1e-12  # a standard error below it is none


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's interval of a share.

    Args:
        successes: Out of n; need not be whole.
        n: Independent trials; without any the interval is all of 0 to 1.
        level: Of confidence, between 0 and 1.
    """
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, room = successes / n, z * z / n
    middle = share + room / 2
    half = z * np.sqrt(share * (1 - share) / n + room / (4 * n))
    low, high = (middle - half) / (1 + room), (middle + half) / (1 + room)
    return (
        0.0 if successes <= 0 else max(float(low), 0.0),
        1.0 if successes >= n else min(float(high), 1.0),
    )


def few_groups_line(metrics: Mapping[str, Any]) -> str:
    """Warns of intervals over few groups; empty where there are enough, or none.

    Args:
        metrics: With `groups` and `effective_groups`, if they have intervals.
    """
    effective = metrics.get("effective_groups")
    if effective is None or effective >= FEW_GROUPS:
        return ""
    return (
        f"{metrics['groups']} groups are worth {effective:.1f} of equal size. Over so few, "
        "intervals are too narrow where groups differ much: simulated 95 % intervals of the "
        f"accuracy held the truth in as few as {100 * WORST_OF_FEW:.0f} % of cases."
    )


def confusion_intervals(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    classes: Sequence[str],
    benign: int | None,
    groups: Groups | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Intervals of the figures that follow from the confusion matrix.

    Args:
        labels: (n,), indices into `classes`.
        predictions: (n,), likewise.
        classes: Class names.
        benign: Index of the benign class; without one there are no clinical figures.
        groups: (n,), what each image belongs to; None where images are independent.
        level: Of confidence, between 0 and 1.
        draws: Of the bootstrap.
        seed: Of the draws.
        prevalence: Share of malignant that the predictive values are for; None: as found.

    Returns:
        By the names of `compute_metrics`: (low, high), or a dict of them by class; None where the
        figure is. A class that occurs in a single group where there are mistakes has (0, 1).

    Raises:
        ValueError: There is no image, or not a group for each.
    """
    k = len(classes)
    clusters = cluster(labels * k + predictions, k * k, groups)
    sizes = _sizes(clusters.codes.reshape(-1, k, k), benign)

    def figures(weights: Floats) -> dict[str, Floats]:
        return _figures((weights @ clusters.codes).reshape(-1, k, k), benign)

    drawn, freedom = bootstrap(clusters, figures, sizes, draws, seed), freedoms(clusters, figures)
    found: dict[str, Any] = {}
    for name, values in figures(clusters.times[None]).items():
        least = -1.0 if name == "mcc" else 0.0
        given = (values[0], drawn[name], sizes[name], freedom[name])
        low, high = limits(clusters, *given, level, (least, 1.0))
        known = ~np.isnan(values[0]) & _present(name, labels, k, benign)
        pairs = [
            (float(a), float(b)) if there else None
            for a, b, there in zip(low.ravel(), high.ravel(), known.ravel(), strict=True)
        ]
        found[name] = dict(zip(classes, pairs, strict=True)) if values[0].ndim else pairs[0]
    if benign is not None and prevalence is not None:
        share = float((labels != benign).mean())
        for name, before, after in (
            ("malignant_ppv", share, prevalence),
            ("malignant_npv", 1 - share, 1 - prevalence),
        ):
            if found[name] is not None:
                found[name] = tuple(moved(limit, before, after) for limit in found[name])
    return found


def _present(name: str, labels: NDArray[np.int64], k: int, benign: int | None) -> NDArray[np.bool_]:
    """Whether there are the images that a figure wants, () or (k,), as in `compute_metrics`."""
    if name in OF_CLASS:
        return np.bincount(labels, minlength=k) > 0
    both = (labels == benign).any() and (labels != benign).any()
    return np.asarray(both or name not in ("malignant_ppv", "malignant_npv"))


def moved(value: float, before: float, after: float) -> float:
    """A predictive value for another prevalence: its odds change as those of the prevalence.

    It never falls where `value` rises, so limits move as the value does.

    Args:
        value: For the share `before` of what is predicted.
        before: Of the images that `value` is from.
        after: That it is wanted for.
    """
    true, false = value * after * (1 - before), (1 - value) * (1 - after) * before
    return true / (true + false) if true + false > 0 else value


def limits(
    clusters: Clusters,
    value: Floats,
    drawn: Floats,
    sizes: Floats,
    freedom: Floats,
    level: float = 0.95,
    span: Interval = (0.0, 1.0),
) -> tuple[Floats, Floats]:
    """Limits (...) of figures, as the module describes.

    Args:
        clusters: What was drawn.
        value: (...), the figures.
        drawn: (draws, ...), what `bootstrap` gave.
        sizes: As there: (u, ...), or (u, ..., classes) for means over classes.
        freedom: (...), what `freedoms` gave.
        level: Of confidence, between 0 and 1.
        span: Lowest and highest value that the figures can have.
    """
    from scipy.special import stdtrit

    width = span[1] - span[0]
    share = np.asarray((value - span[0]) / width)
    means = sizes.ndim > share.ndim + 1
    trials = clusters.effective(sizes)
    effective = clusters.effective(sizes.sum(axis=-1)) if means else trials
    error = standard_error(clusters, drawn, sizes) / width
    quantile = stdtrit(np.maximum(np.minimum(effective - 1, freedom), 1), (1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        half = quantile * error / (share * (1 - share))
        odds = np.log(share / (1 - share))
        low, high = 1 / (1 + np.exp(half - odds)), 1 / (1 + np.exp(-half - odds))
    low, high = np.where(np.isnan(low), 0.0, low), np.where(np.isnan(high), 1.0, high)
    stuck = (error <= _ROUNDING) | (share <= 0) | (share >= 1)
    if stuck.any():
        lowest, highest = _worst(share[..., None] if means else share, trials, level)
        if means:
            counted = trials > 0
            lowest, highest = (np.average(x, axis=-1, weights=counted) for x in (lowest, highest))
        low, high = np.where(stuck, lowest, low), np.where(stuck, highest, high)
    return span[0] + width * low, span[0] + width * high


def _worst(share: Floats, trials: Floats, level: float) -> tuple[Floats, Floats]:
    """Wilson's limits where each effective group is right or wrong as a whole."""
    low, high = np.vectorize(wilson, otypes=[float, float])(share * trials, trials, level)
    return low, high


def _figures(matrices: Floats, benign: int | None) -> dict[str, Floats]:
    """Figures of matrices (..., k, k), the clinical ones among them."""
    found = matrix_figures(matrices)
    if benign is None:
        return found
    fold = _fold(matrices.shape[-1], benign)
    two = matrix_figures(fold.T @ matrices @ fold)
    right, trusted = two["sensitivity_by_class"], two["precision_by_class"]
    return found | {
        "malignant_sensitivity": right[..., 1],
        "malignant_specificity": right[..., 0],
        "malignant_ppv": trusted[..., 1],
        "malignant_npv": trusted[..., 0],
    }


def _sizes(matrices: Floats, benign: int | None) -> dict[str, Floats]:
    """What matrices (u, k, k) add to the denominators of `_figures`; by class for means."""
    true, said = matrices.sum(axis=2), matrices.sum(axis=1)
    every = true.sum(axis=1)
    found = dict.fromkeys(("balanced_accuracy", "precision", "recall", "f1", "mcc"), true)
    found |= {
        "accuracy": every,
        "sensitivity_by_class": true,
        "specificity_by_class": every[:, None] - true,
        "precision_by_class": said,
    }
    if benign is not None:
        fold = _fold(true.shape[1], benign)
        found["malignant_specificity"], found["malignant_sensitivity"] = (true @ fold).T
        found["malignant_npv"], found["malignant_ppv"] = (said @ fold).T
    return found


def _fold(k: int, benign: int) -> Floats:
    """Matrix (k, 2) that puts classes together: benign, malignant."""
    fold: Floats = np.eye(2)[(np.arange(k) != benign).astype(np.int64)]
    return fold
