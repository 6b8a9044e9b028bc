"""Metrics of a set of predictions, from its confusion matrix and its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.calibration import MIN_PROBABILITY, reliability

# The metrics shown in tables, in this order.
HEADLINE_METRICS = ("accuracy", "precision", "recall", "f1")
# The metrics shown in reports below those, in this order.
MORE_METRICS = ("balanced_accuracy", "mcc", "auroc", "average_precision", "brier", "loss")
# Lowest value of metrics that can be negative.
LOWEST = {"mcc": -1.0}
# Metrics by class that are undefined for a class without images.
CLASS_METRICS = ("sensitivity_by_class", "precision_by_class")


def confusion(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Confusion matrix (k, k): rows are true classes, columns are predicted classes."""
    return np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k).astype(np.int64)


def compute_metrics(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    benign: int | None,
    prevalence: float | None = None,
) -> dict[str, Any]:
    """Computes all metrics of `metrics.json` for a set of images.

    Precision, recall and F1 are macro averages over the classes that occur. A class without images
    has no sensitivity and no precision (None) and is left out of the averages, where scikit-learn
    and torchmetrics count 0 if it was predicted. The precision of a class that occurs and is
    never predicted is None too, and counts as 0 in the average, as in these libraries. Balanced
    accuracy is the mean recall. `mcc` is Matthews' correlation coefficient (Matthews 1975), 0 if
    there is a single class or a single one is predicted, as in scikit-learn. `loss` is the mean
    negative log-likelihood, `brier` the mean over images of the summed squared differences (Brier
    1950; 0 to 2), and `ece` the expected calibration error (Naeini et al. 2015). `auroc` and
    `average_precision` compare each class with the rest; they are None if there is no image of the
    class or none of the rest, and their means leave out such classes. The clinical metrics treat
    all classes but the benign one as malignant. They are None if no image defines them, and
    predictive values are None if no image is called so.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,), indices into `classes`.
        classes: Class names.
        benign: Index of the benign class; None leaves out the clinical metrics.
        prevalence: Share of malignant images for the predictive values; None uses the share in
            these images.

    Returns:
        Numbers, lists and dicts, ready for JSON.
    """
    predictions = probabilities.argmax(axis=1)
    matrix = confusion(labels, predictions, len(classes))
    from_matrix = confusion_metrics(matrix)
    for name in CLASS_METRICS:
        from_matrix[name] = np.where(matrix.sum(axis=1) > 0, from_matrix[name], np.nan)
    metrics: dict[str, Any] = {
        name: _named(value, classes) if name.endswith("_by_class") else float(value)
        for name, value in from_matrix.items()
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
        metrics |= clinical_metrics(labels != benign, predictions != benign, prevalence)
    return metrics


def confusion_metrics(matrices: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Computes the metrics that follow from confusion matrices alone.

    Args:
        matrices: (..., k, k), counts or weights; rows are true classes.

    Returns:
        Arrays of shape (...), or (..., k) if the name ends in `_by_class`; NaN if the ratio of a
        class has no denominator.
    """
    m = np.asarray(matrices, dtype=np.float64)
    correct = np.diagonal(m, axis1=-2, axis2=-1)
    support, predicted, n = m.sum(axis=-1), m.sum(axis=-2), m.sum(axis=(-2, -1))
    total = n[..., None]
    recall, precision = _ratio(correct, support), _ratio(correct, predicted)
    counted = support > 0
    expected = (support * predicted).sum(axis=-1)
    spread = (n**2 - (support**2).sum(axis=-1)) * (n**2 - (predicted**2).sum(axis=-1))
    return {
        "accuracy": _ratio(correct.sum(axis=-1), n),
        "balanced_accuracy": _mean(recall, counted),
        "precision": _mean(precision, counted),
        "recall": _mean(recall, counted),
        "f1": _mean(_ratio(2 * correct, support + predicted), counted),
        "mcc": np.nan_to_num(_ratio(n * correct.sum(axis=-1) - expected, np.sqrt(spread))),
        "sensitivity_by_class": recall,
        "specificity_by_class": _ratio(total - support - predicted + correct, total - support),
        "precision_by_class": precision,
    }


def losses(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Negative log-likelihood (n,) of each image, in nats; always finite."""
    chosen = probabilities[np.arange(len(labels)), labels]
    loss: NDArray[np.float64] = -np.log(np.clip(chosen, MIN_PROBABILITY, None))
    return loss


def brier_scores(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Squared distance of the probabilities to the true class, (n,), between 0 and 2."""
    truth = np.arange(probabilities.shape[1]) == labels[:, None]
    score: NDArray[np.float64] = ((probabilities - truth) ** 2).sum(axis=1)
    return score


def clinical_metrics(
    truth: NDArray[np.bool_], called: NDArray[np.bool_], prevalence: float | None = None
) -> dict[str, float | None]:
    """Malignant against benign; predictive values follow from the prevalence by Bayes' theorem.

    Args:
        truth: Which images are malignant, (n,).
        called: Which images are called malignant, (n,).
        prevalence: As in `compute_metrics`.

    Returns:
        Sensitivity is None without a malignant image, specificity without a benign one. The
        predictive values are None if either is, or if no image is called malignant or benign,
        respectively.
    """
    share = float(_ratio(truth.sum(), len(truth))) if prevalence is None else float(prevalence)
    sensitivity = float(called[truth].mean()) if truth.any() else None
    specificity = float((~called)[~truth].mean()) if not truth.all() else None
    rates: dict[str, float | None] = {
        "malignant_sensitivity": sensitivity,
        "malignant_specificity": specificity,
    }
    if sensitivity is None or specificity is None:
        return {**rates, "malignant_ppv": None, "malignant_npv": None, "prevalence": share}
    true_positive, true_negative = sensitivity * share, specificity * (1 - share)
    return {
        **rates,
        "malignant_ppv": _known(
            _ratio(true_positive, true_positive + (1 - specificity) * (1 - share))
        ),
        "malignant_npv": _known(_ratio(true_negative, true_negative + (1 - sensitivity) * share)),
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


def _ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """Ratio; NaN if the denominator is 0."""
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    ratio: NDArray[np.float64] = np.full_like(above, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _mean(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the last axis of the values that count; NaN among them counts as 0."""
    return _ratio((np.nan_to_num(values) * counted).sum(axis=-1), counted.sum(axis=-1))


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _named(values: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float | None]:
    return {name: _known(v) for name, v in zip(classes, values, strict=True)}
