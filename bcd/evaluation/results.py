"""Computes all metrics of a network's outputs for images of a catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.evaluation.answers import Answers, check_finite, softmax
from bcd.evaluation.bootstrap import effective_groups, fill_group_names
from bcd.evaluation.calibration import (
    Reliability,
    calibrated_error_level,
    debiased_calibration_error,
    reliability,
)
from bcd.evaluation.conformal import (
    aurc,
    risk_coverage,
    selective_accuracy,
    set_metrics,
)
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.decision import DecisionPolicy, Decisions, count_reasons, p_malignant, referred
from bcd.evaluation.intervals import wilson
from bcd.evaluation.malignancy import TWO, malignancy_metrics, share_interval
from bcd.evaluation.metrics import clinical_metrics, compute_metrics, losses
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.probability_intervals import probability_intervals
from bcd.evaluation.unsafe import called_malignant, is_unsafe, unsafe_metrics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """Metrics and predictions for a set of images.

    Attributes:
        metrics: All metrics, ready for JSON.
        predictions: Of each image.
        uncalibrated: Probabilities before temperature scaling, (n, classes).
        probabilities: Probabilities after it, (n, classes).
        labels: (n,).
        unsafe: Which answers are unsafe, (n,); None without a benign class.
    """

    metrics: dict[str, Any]
    predictions: tuple[Prediction, ...]
    uncalibrated: Floats
    probabilities: Floats
    labels: NDArray[np.int64]
    unsafe: NDArray[np.bool_] | None = None

    @property
    def reliability(self) -> tuple[Reliability, Reliability]:
        """Reliability before and after temperature scaling."""
        before = reliability(self.uncalibrated, self.labels)
        return before, reliability(self.probabilities, self.labels)

    @property
    def risk_coverage(self) -> tuple[Floats, Floats]:
        """Shares kept and error rates, from `conformal.risk_coverage`."""
        correct = self.probabilities.argmax(axis=1) == self.labels
        return risk_coverage(self.probabilities.max(axis=1), correct)


def evaluate(
    answers: Answers,
    policy: DecisionPolicy,
    catalog: Catalog,
    indices: Sequence[int],
    groups: Sequence[str] = (),
    intervals: bool = True,
) -> Result:
    """Applies the decision policy to outputs and computes all metrics.

    Args:
        answers: Outputs for the images of `indices`, in that order. If some are labelled malignant
            without a class of the network, metrics by class are left out.
        policy: Calibrates and refers.
        catalog: Holds the images and classes.
        indices: Of the images, in the catalog.
        groups: Group of each image; intervals are over groups if there are any.
        intervals: Whether to compute them; they are meaningless on images used for selection.

    Raises:
        BcdError: An output is not finite.
    """
    check_finite(answers, [catalog.images[i].path for i in indices])
    decisions = policy.answer(answers.logits, answers.descriptors, answers.disagreement)
    probabilities, labels = decisions.probabilities, answers.labels
    named = fill_group_names(groups) if groups else None
    metrics = {
        "n": len(labels),
        "calibrated": policy.calibrated,
        **referral_metrics(decisions, named, intervals),
        **_malignancy_metrics(policy, decisions, labels, catalog.benign, named, intervals),
    }
    uncalibrated = softmax(np.asarray(answers.logits, np.float64))
    if (labels < probabilities.shape[1]).all():
        metrics |= _class_metrics(
            policy, answers, decisions, uncalibrated, catalog, named, intervals
        )
    if intervals:
        metrics["n_groups"] = None if named is None else len(set(named))
        metrics["effective_groups"] = effective_groups(named)
    unsafe = None
    if catalog.benign is not None:
        answered = (
            labels != catalog.benign, called_malignant(policy, probabilities, catalog.benign),
            referred(decisions.reasons),
        )  # fmt: skip
        unsafe = is_unsafe(*answered)
        metrics |= unsafe_metrics(*answered, named, intervals)
    predictions = tuple(
        decisions.prediction(place, catalog.images[i].path, catalog.classes[label])
        for place, (i, label) in enumerate(zip(indices, labels, strict=True))
    )
    return Result(metrics, predictions, uncalibrated, probabilities, labels, unsafe)


def _class_metrics(
    policy: DecisionPolicy,
    answers: Answers,
    decisions: Decisions,
    uncalibrated: Floats,
    catalog: Catalog,
    groups: list[str] | None,
    intervals: bool,
) -> dict[str, Any]:
    """Metrics that need the class of every image."""
    probabilities, labels = decisions.probabilities, answers.labels
    classes, benign = catalog.classes, catalog.benign
    metrics = compute_metrics(probabilities, labels, classes, benign, policy.prevalence)
    metrics |= {
        "ece_debiased": debiased_calibration_error(probabilities, labels),
        "ece_if_calibrated": calibrated_error_level(probabilities)._asdict(),
        "ece_uncalibrated": reliability(uncalibrated, labels).ece,
        "loss_uncalibrated": float(losses(uncalibrated, labels).mean()),
        **_selective_metrics(decisions, labels),
    }
    if policy.priors is not None:
        metrics["without_prior_correction"] = _uncorrected_metrics(policy, answers, catalog)
    if policy.calibrated:
        metrics["prediction_sets"] = {
            "target_coverage": policy.target_coverage,
            "guaranteed_coverage": policy.guaranteed_coverage,
            "n_units": policy.n_units,
            "by_groups": policy.by_groups,
            "population": policy.population,
            **set_metrics(policy.sets(probabilities), labels, classes),
        }
    if intervals:
        metrics |= _intervals(probabilities, labels, catalog, groups, policy.prevalence)
    return metrics


# What prior correction may raise or lower.
_CORRECTED = (
    "accuracy", "balanced_accuracy", "malignant_sensitivity", "malignant_specificity", "loss",
    "ece",
)  # fmt: skip


def _uncorrected_metrics(
    policy: DecisionPolicy, answers: Answers, catalog: Catalog
) -> dict[str, float | None]:
    """Metrics of the same outputs at the same temperature, without prior correction."""
    probabilities = policy.without_priors().probabilities(answers.logits)
    found = compute_metrics(probabilities, answers.labels, catalog.classes, catalog.benign)
    return {name: found[name] for name in _CORRECTED if name in found}


def _intervals(
    probabilities: Floats,
    labels: NDArray[np.int64],
    catalog: Catalog,
    groups: list[str] | None,
    prevalence: float | None,
) -> dict[str, Any]:
    """95 % intervals as `<metric>_ci`, and that of accuracy for independent images."""
    predictions = probabilities.argmax(axis=1)
    classes, benign = catalog.classes, catalog.benign
    found = {
        **confusion_intervals(labels, predictions, classes, benign, groups, prevalence=prevalence),
        **probability_intervals(probabilities, labels, catalog.classes, groups),
    }
    correct = int((predictions == labels).sum())
    return {
        **{f"{name}_ci": _as_lists(value) for name, value in found.items()},
        "accuracy_ci_wilson_iid": list(wilson(correct, len(labels))),
    }


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(inner) for name, inner in value.items()}
    return None if value is None else [float(limit) for limit in value]


def referral_metrics(
    decisions: Decisions, groups: list[str] | None, intervals: bool = True
) -> dict[str, Any]:
    """Share of images that are referred, and the reasons."""
    is_referred = referred(decisions.reasons)
    found: dict[str, Any] = {
        "referred": float(is_referred.mean()),
        "referral_reasons": count_reasons(decisions.reasons),
    }
    if intervals:
        found["referred_ci"] = share_interval(is_referred, groups)
    return found


def _selective_metrics(decisions: Decisions, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Metrics of the images that are decided."""
    confidence = decisions.probabilities.max(axis=1)
    correct = decisions.probabilities.argmax(axis=1) == labels
    is_referred = referred(decisions.reasons)
    return {
        "accuracy_decided": float(correct[~is_referred].mean()) if not is_referred.all() else None,
        "selective_accuracy": selective_accuracy(confidence, correct),
        "aurc": aurc(risk_coverage(confidence, correct)[1]),
    }


def _malignancy_metrics(
    policy: DecisionPolicy,
    decisions: Decisions,
    labels: NDArray[np.int64],
    benign: int | None,
    groups: list[str] | None,
    intervals: bool,
) -> dict[str, Any]:
    """Metrics of benign against malignant; those of the threshold with their guarantees."""
    if benign is None:
        return {}
    truth, p = labels != benign, p_malignant(decisions.probabilities, benign)
    found = {"malignancy": malignancy_metrics(p, truth, groups, intervals)}
    called = policy.malignant(decisions.probabilities)
    if policy.malignant_threshold is None or called is None:
        return found
    found["at_threshold"] = {
        "target_sensitivity": policy.target_sensitivity,
        "guaranteed_sensitivity": policy.guaranteed_sensitivity,
        "confidence": policy.confidence,
        "n_units": policy.n_malignant_units,
        "by_groups": policy.by_groups,
        "population": policy.population,
        "threshold": policy.malignant_threshold,
        **clinical_metrics(truth, called, policy.prevalence),
    }
    if intervals:
        ci = confusion_intervals(
            truth.astype(np.int64), called.astype(np.int64), TWO, 0, groups,
            prevalence=policy.prevalence,
        )  # fmt: skip
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            found["at_threshold"][f"malignant_{name}_ci"] = _as_lists(ci[f"malignant_{name}"])
    return found
