"""Confidence intervals of the metrics that follow from the confusion matrix.

The method is described in `intervals`; AUROC, average precision, loss and Brier score are in
`probability_intervals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import (
    DRAWS,
    Floats,
    Groups,
    bootstrap,
    cluster,
    degrees_of_freedom,
)
from bcd.evaluation.intervals import limits
from bcd.evaluation.metrics import CLASS_METRICS, LOWEST, confusion_metrics


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
    """Intervals of the metrics that follow from the confusion matrix.

    Args:
        labels: (n,), indices into `classes`.
        predictions: (n,), indices into `classes`.
        classes: Class names.
        benign: Index of the benign class; None leaves out the clinical metrics.
        groups: (n,), group of each image; None if images are independent.
        level: Confidence level, between 0 and 1.
        draws: Number of bootstrap samples.
        seed: Of the bootstrap.
        prevalence: Share of malignant images for the predictive values; None uses the share in
            these images.

    Returns:
        (low, high) by the names of `compute_metrics`, or a dict of them by class; None where the
        metric is None. The interval is (0, 1) for a class that has errors and occurs in a single
        group.

    Raises:
        ValueError: There are no images, or `groups` has another length.
    """
    k = len(classes)
    clusters = cluster(labels * k + predictions, k * k, groups)
    sizes = _sizes(clusters.codes.reshape(-1, k, k), benign)

    def metrics(weights: Floats) -> dict[str, Floats]:
        return _metrics((weights @ clusters.codes).reshape(-1, k, k), benign)

    samples, df = (
        bootstrap(clusters, metrics, sizes, draws, seed),
        degrees_of_freedom(clusters, metrics),
    )
    found: dict[str, Any] = {}
    for name, values in metrics(clusters.times[None]).items():
        inputs = (values[0], samples[name], sizes[name], df[name])
        low, high = limits(clusters, *inputs, level, (LOWEST.get(name, 0.0), 1.0))
        known = ~np.isnan(values[0]) & _present(name, labels, k, benign)
        pairs = [
            (float(a), float(b)) if exists else None
            for a, b, exists in zip(low.ravel(), high.ravel(), known.ravel(), strict=True)
        ]
        found[name] = dict(zip(classes, pairs, strict=True)) if values[0].ndim else pairs[0]
    if benign is not None and prevalence is not None:
        share = float((labels != benign).mean())
        for name, before, after in (
            ("malignant_ppv", share, prevalence),
            ("malignant_npv", 1 - share, 1 - prevalence),
        ):
            if found[name] is not None:
                found[name] = tuple(at_prevalence(limit, before, after) for limit in found[name])
    return found


def _present(name: str, labels: NDArray[np.int64], k: int, benign: int | None) -> NDArray[np.bool_]:
    """Whether the images that a metric needs exist, () or (k,), as in `compute_metrics`."""
    if name in CLASS_METRICS:
        return np.bincount(labels, minlength=k) > 0
    both = (labels == benign).any() and (labels != benign).any()
    return np.asarray(both or name not in ("malignant_ppv", "malignant_npv"))


def at_prevalence(value: float, before: float, after: float) -> float:
    """Converts a predictive value to another prevalence by Bayes' theorem, on the odds scale.

    The conversion is monotonic, so it applies to confidence limits as well.

    Args:
        value: Predictive value at the prevalence `before`.
        before: Prevalence of the predicted state in the images that `value` is from.
        after: Prevalence to convert to.
    """
    true, false = value * after * (1 - before), (1 - value) * (1 - after) * before
    return true / (true + false) if true + false > 0 else value


def _metrics(matrices: Floats, benign: int | None) -> dict[str, Floats]:
    """Metrics of matrices (..., k, k), including the clinical ones."""
    found = confusion_metrics(matrices)
    if benign is None:
        return found
    fold = _fold(matrices.shape[-1], benign)
    two = confusion_metrics(fold.T @ matrices @ fold)
    recall, precision = two["sensitivity_by_class"], two["precision_by_class"]
    return found | {
        "malignant_sensitivity": recall[..., 1],
        "malignant_specificity": recall[..., 0],
        "malignant_ppv": precision[..., 1],
        "malignant_npv": precision[..., 0],
    }


def _sizes(matrices: Floats, benign: int | None) -> dict[str, Floats]:
    """What matrices (u, k, k) add to the denominators of `_metrics`; by class for means."""
    true, predicted = matrices.sum(axis=2), matrices.sum(axis=1)
    total = true.sum(axis=1)
    found = dict.fromkeys(confusion_metrics(matrices), true)  # as for means over classes
    found |= {
        "accuracy": total,
        "sensitivity_by_class": true,
        "specificity_by_class": total[:, None] - true,
        "precision_by_class": predicted,
    }
    if benign is not None:
        fold = _fold(true.shape[1], benign)
        found["malignant_specificity"], found["malignant_sensitivity"] = (true @ fold).T
        found["malignant_npv"], found["malignant_ppv"] = (predicted @ fold).T
    return found


def _fold(k: int, benign: int) -> Floats:
    """Matrix (k, 2) that merges the classes into benign and malignant."""
    fold: Floats = np.eye(2)[(np.arange(k) != benign).astype(np.int64)]
    return fold
