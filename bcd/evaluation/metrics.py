"""The figures of a set of predictions, all from its confusion matrix and its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The figures that stand in tables, in this order.
HEADLINE = ("accuracy", "precision", "recall", "f1")


def confusion(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Confusion matrix (k, k): rows are true classes, columns predicted ones."""
    return np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k).astype(np.int64)


def compute_metrics(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    benign: int | None,
) -> dict[str, Any]:
    """Computes every figure of `metrics.json` for one set of pictures.

    Precision, recall and F1 are macro averages (the plain mean over classes), balanced accuracy is
    the mean recall over the classes that occur, and a ratio whose denominator is zero counts as 0,
    all as in torchmetrics and scikit-learn. The clinical pair treats every class but the benign one
    as malignant.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,), indices into `classes`.
        classes: Class names.
        benign: Index of the benign class; without one there is no clinical pair.

    Returns:
        Plain numbers, lists and dicts, ready for JSON.
    """
    predictions = probabilities.argmax(axis=1)
    matrix = confusion(labels, predictions, len(classes))
    right = matrix.diagonal()
    support, predicted, n = matrix.sum(axis=1), matrix.sum(axis=0), int(matrix.sum())
    recall = _ratio(right, support)
    precision = _ratio(right, predicted)
    f1 = _ratio(2 * right, support + predicted)
    specificity = _ratio(n - support - predicted + right, n - support)
    counted = (support > 0) | (predicted > 0)
    chosen = probabilities[np.arange(n), labels]
    metrics: dict[str, Any] = {
        "accuracy": float(right.sum() / n),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "precision": float(precision[counted].mean()),
        "recall": float(recall[counted].mean()),
        "f1": float(f1[counted].mean()),
        "loss": float(-np.log(np.clip(chosen, 1e-12, None)).mean()),
        "n": n,
        "sensitivity_by_class": _named(recall, classes),
        "specificity_by_class": _named(specificity, classes),
        "precision_by_class": _named(precision, classes),
        "n_by_class": {name: int(c) for name, c in zip(classes, support, strict=True)},
        "confusion": matrix.tolist(),
    }
    if benign is not None:
        metrics |= _clinical(labels != benign, predictions != benign)
    return metrics


def _clinical(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> dict[str, float]:
    """Malignant against benign."""
    return {
        "malignant_sensitivity": float(_ratio((truth & said).sum(), truth.sum())),
        "malignant_specificity": float(_ratio((~truth & ~said).sum(), (~truth).sum())),
    }


def _ratio(above: Any, below: Any) -> NDArray[np.float64]:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    ratio: NDArray[np.float64] = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio


def _named(values: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    return {name: float(v) for name, v in zip(classes, values, strict=True)}
