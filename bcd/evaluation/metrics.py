"""The figures of a set of predictions, all from its confusion matrix and its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.calibration import SMALLEST, reliability

# The figures that stand in tables, in this order.
HEADLINE = ("accuracy", "precision", "recall", "f1")
# The figures of a class that it has only where there is an image of it.
OF_CLASS = ("sensitivity_by_class", "precision_by_class")


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
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Computes every figure of `metrics.json` for one set of images.

    Precision, recall and F1 are macro averages: plain means over the classes that occur. A class of
    which there is no image has no sensitivity and no precision (None) and is left out of the
    averages, where scikit-learn and torchmetrics would count 0 if it was predicted. The precision
    of a class that occurs and is never predicted is None too, and counts as 0 in the average, as
    there. Balanced accuracy is the mean recall. `mcc` is Matthews' correlation, 0 where there is
    only one class or one is predicted, as in scikit-learn. `loss` is the mean
    negative log-likelihood, `brier` the mean over images of the summed squared differences (0 to
    2), `ece` the expected calibration error. `auroc` and `average_precision` set each class against
    the rest, and are None where there is no image of the class or none of the rest; their means
    leave such classes out. The clinical figures treat every class but the benign one as
    malignant; they are None where there is no image to take them from, and predictive values
    where nothing is called so.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,), indices into `classes`.
        classes: Class names.
        benign: Index of the benign class; without one there are no clinical figures.
        prevalence: Share of malignant images for which to give the predictive values; None takes
            the share in these images.

    Returns:
        Plain numbers, lists and dicts, ready for JSON.
    """
    predictions = probabilities.argmax(axis=1)
    matrix = confusion(labels, predictions, len(classes))
    figures = matrix_figures(matrix)
    for name in OF_CLASS:
        figures[name] = np.where(matrix.sum(axis=1) > 0, figures[name], np.nan)
    metrics: dict[str, Any] = {
        name: _named(value, classes) if name.endswith("_by_class") else float(value)
        for name, value in figures.items()
    }
    metrics |= {
        "loss": float(losses(probabilities, labels).mean()),
        "brier": float(brier_scores(probabilities, labels).mean()),
        "ece": reliability(probabilities, labels).ece,
        **_rankings(probabilities, labels, classes),
        "n": len(labels),
        "n_by_class": {name: int(c) for name, c in zip(classes, matrix.sum(axis=1), strict=True)},
        "confusion": matrix.tolist(),
    }
    if benign is not None:
        metrics |= _clinical(labels != benign, predictions != benign, prevalence)
    return metrics


def matrix_figures(matrices: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Computes the figures that follow from confusion matrices alone.

    Args:
        matrices: (..., k, k), counts or weights; rows are true classes.

    Returns:
        Each of shape (...), or (..., k) where the name ends in `_by_class`; NaN where a ratio of a
        class has no denominator.
    """
    m = np.asarray(matrices, dtype=np.float64)
    right = np.diagonal(m, axis1=-2, axis2=-1)
    support, predicted, n = m.sum(axis=-1), m.sum(axis=-2), m.sum(axis=(-2, -1))
    every = n[..., None]
    recall, precision = _ratio(right, support), _ratio(right, predicted)
    counted = support > 0
    chance = (support * predicted).sum(axis=-1)
    spread = (n**2 - (support**2).sum(axis=-1)) * (n**2 - (predicted**2).sum(axis=-1))
    return {
        "accuracy": _ratio(right.sum(axis=-1), n),
        "balanced_accuracy": _mean(recall, counted),
        "precision": _mean(precision, counted),
        "recall": _mean(recall, counted),
        "f1": _mean(_ratio(2 * right, support + predicted), counted),
        "mcc": np.nan_to_num(_ratio(n * right.sum(axis=-1) - chance, np.sqrt(spread))),
        "sensitivity_by_class": recall,
        "specificity_by_class": _ratio(every - support - predicted + right, every - support),
        "precision_by_class": precision,
    }


def losses(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Negative log-likelihood (n,) of each image, in nats; finite whatever was said."""
    chosen = probabilities[np.arange(len(labels)), labels]
    loss: NDArray[np.float64] = -np.log(np.clip(chosen, SMALLEST, None))
    return loss


def brier_scores(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum over the classes of the squared difference to the truth, (n,), between 0 and 2."""
    truth = np.arange(probabilities.shape[1]) == labels[:, None]
    score: NDArray[np.float64] = ((probabilities - truth) ** 2).sum(axis=1)
    return score


def clinical_at_threshold(
    p_malignant: NDArray[np.floating[Any]],
    malignant: NDArray[np.bool_],
    threshold: float,
    prevalence: float | None = None,
) -> dict[str, float | None]:
    """Computes the clinical figures where `threshold` or more is called malignant.

    Args:
        p_malignant: (n,), between 0 and 1.
        malignant: (n,), the truth.
        threshold: Between 0 and 1.
        prevalence: As in `compute_metrics`.
    """
    return {
        "threshold": float(threshold),
        **_clinical(malignant, p_malignant >= threshold, prevalence),
    }


def _clinical(
    truth: NDArray[np.bool_], said: NDArray[np.bool_], prevalence: float | None
) -> dict[str, float | None]:
    """Malignant against benign; the predictive values follow from the prevalence by Bayes.

    Sensitivity is None without a malignant image, specificity without a benign one, and the
    predictive values where either is, or where nothing is called malignant or benign.
    """
    share = float(_ratio(truth.sum(), len(truth))) if prevalence is None else float(prevalence)
    sensitivity = float(said[truth].mean()) if truth.any() else None
    specificity = float((~said)[~truth].mean()) if not truth.all() else None
    given: dict[str, float | None] = {
        "malignant_sensitivity": sensitivity,
        "malignant_specificity": specificity,
    }
    if sensitivity is None or specificity is None:
        return {**given, "malignant_ppv": None, "malignant_npv": None, "prevalence": share}
    found, cleared = sensitivity * share, specificity * (1 - share)
    return {
        **given,
        "malignant_ppv": _known(_ratio(found, found + (1 - specificity) * (1 - share))),
        "malignant_npv": _known(_ratio(cleared, cleared + (1 - sensitivity) * share)),
        "prevalence": share,
    }


def _rankings(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """AUROC and average precision of each class against the rest, and their means."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores: dict[str, Callable[..., float]] = {
        "auroc": roc_auc_score,
        "average_precision": average_precision_score,
    }
    found: dict[str, Any] = {}
    for name, score in scores.items():
        by_class: dict[str, float | None] = dict.fromkeys(classes)
        for index, label in enumerate(classes):
            truth = labels == index
            if truth.any() and not truth.all():
                by_class[label] = float(score(truth, probabilities[:, index]))
        known = [value for value in by_class.values() if value is not None]
        found |= {name: float(np.mean(known)) if known else None, f"{name}_by_class": by_class}
    return found


def _ratio(above: Any, below: Any) -> NDArray[np.float64]:
    """Ratio, NaN where there is no denominator."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    nothing = np.full_like(above, np.nan)
    ratio: NDArray[np.float64] = np.divide(above, below, out=nothing, where=below > 0)
    return ratio


def _mean(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the last axis of the values that count; NaN among them is 0."""
    return _ratio((np.nan_to_num(values) * counted).sum(axis=-1), counted.sum(axis=-1))


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _named(values: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float | None]:
    return {name: _known(v) for name, v in zip(classes, values, strict=True)}
