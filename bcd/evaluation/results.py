"""Evaluates answers to images of a catalog, and writes what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.evaluation.answers import Answers, check_finite, softmax
from bcd.evaluation.bootstrap import effective_groups, named_groups
from bcd.evaluation.calibration import chance_level, debiased_error, reliability
from bcd.evaluation.conformal import (
    area_under_risk,
    prediction_sets,
    risk_coverage,
    selective_accuracy,
    set_figures,
)
from bcd.evaluation.decision import DecisionPolicy, Decisions, count_reasons, p_malignant, referred
from bcd.evaluation.intervals import confusion_intervals, wilson
from bcd.evaluation.metrics import clinical_at_threshold, compute_metrics, losses
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.probability_intervals import probability_intervals

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """What came out on one set of images.

    Attributes:
        metrics: The figures, ready for JSON.
        predictions: Of each image.
        uncalibrated: Probabilities before the temperature, (n, classes).
        probabilities: After it, (n, classes).
        labels: (n,).
    """

    metrics: dict[str, Any]
    predictions: tuple[Prediction, ...]
    uncalibrated: Floats
    probabilities: Floats
    labels: NDArray[np.int64]


def evaluate(
    answers: Answers,
    policy: DecisionPolicy,
    catalog: Catalog,
    indices: Sequence[int],
    groups: Sequence[str] = (),
    intervals: bool = True,
) -> Result:
    """Judges answers and computes every figure of them.

    Args:
        answers: To the images of `indices`, in that order.
        policy: Calibrates and refers.
        catalog: Names the images and classes.
        indices: Of the images, in the catalog.
        groups: What each image belongs to; intervals are over groups where there are any.
        intervals: Whether to give them; to images that something was chosen on they mean nothing.

    Raises:
        BcdError: An answer is not finite.
    """
    check_finite(answers, [catalog.images[i].path for i in indices])
    decisions = policy.answer(answers.logits, answers.features)
    probabilities = decisions.probabilities
    uncalibrated = softmax(np.asarray(answers.logits, np.float64))
    labels, classes, benign = answers.labels, catalog.classes, catalog.benign
    named = named_groups(groups) if groups else None
    metrics = compute_metrics(probabilities, labels, classes, benign, policy.prevalence)
    metrics |= {
        "calibrated": policy.calibrated,
        "ece_debiased": debiased_error(probabilities, labels),
        "ece_chance": chance_level(probabilities)._asdict(),
        "ece_uncalibrated": reliability(uncalibrated, labels).ece,
        "loss_uncalibrated": float(losses(uncalibrated, labels).mean()),
        **_abstention(decisions, labels),
    }
    if policy.calibrated:
        metrics |= _decided(policy, decisions, labels, catalog, named, intervals)
    if intervals:
        metrics |= _intervals(probabilities, labels, catalog, named, policy.prevalence)
    predictions = tuple(
        decisions.prediction(place, catalog.images[i].path, classes[label])
        for place, (i, label) in enumerate(zip(indices, labels, strict=True))
    )
    return Result(metrics, predictions, uncalibrated, probabilities, labels)


def _intervals(
    probabilities: Floats,
    labels: NDArray[np.int64],
    catalog: Catalog,
    groups: list[str] | None,
    prevalence: float | None,
) -> dict[str, Any]:
    """95 % intervals as `<figure>_ci`, and that of accuracy were images independent."""
    predictions = probabilities.argmax(axis=1)
    classes, benign = catalog.classes, catalog.benign
    found = {
        **confusion_intervals(labels, predictions, classes, benign, groups, prevalence=prevalence),
        **probability_intervals(probabilities, labels, catalog.classes, groups),
    }
    right = int((predictions == labels).sum())
    return {
        **{f"{name}_ci": _listed(value) for name, value in found.items()},
        "accuracy_ci_wilson_iid": list(wilson(right, len(labels))),
        "groups": None if groups is None else len(set(groups)),
        "effective_groups": effective_groups(groups),
    }


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(inner) for name, inner in value.items()}
    return None if value is None else [float(limit) for limit in value]


def _abstention(decisions: Decisions, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Figures of what is referred, and of what abstaining would buy."""
    confidence = decisions.probabilities.max(axis=1)
    right = decisions.probabilities.argmax(axis=1) == labels
    away = referred(decisions.reasons)
    return {
        "referred": float(away.mean()),
        "referred_for": count_reasons(decisions.reasons),
        "accuracy_decided": float(right[~away].mean()) if not away.all() else None,
        "selective_accuracy": selective_accuracy(confidence, right),
        "area_under_risk": area_under_risk(risk_coverage(confidence, right)[1]),
    }


def _decided(
    policy: DecisionPolicy,
    decisions: Decisions,
    labels: NDArray[np.int64],
    catalog: Catalog,
    groups: list[str] | None,
    intervals: bool,
) -> dict[str, Any]:
    """Figures of prediction sets and of the threshold for malignancy, beside what was promised."""
    sets = prediction_sets(decisions.probabilities, policy.set_from)
    about = {"by_groups": policy.by_groups, "about": policy.about}
    found: dict[str, Any] = {
        "sets": {
            "wanted": policy.coverage,
            "promised": policy.covered,
            "promised_from": policy.units,
            **about,
            **set_figures(sets, labels, catalog.classes),
        }
    }
    said = policy.malignant(decisions.probabilities)
    if policy.benign is None or policy.malignant_from is None or said is None:
        return found
    ill = labels != policy.benign
    found["at_threshold"] = {
        "wanted_sensitivity": policy.sensitivity,
        "promised_sensitivity": policy.sensitivity_kept,
        "confidence": policy.confidence,
        "promised_from": policy.malignant_units,
        **about,
        **clinical_at_threshold(
            p_malignant(decisions.probabilities, policy.benign), ill, policy.malignant_from,
            policy.prevalence,
        ),
    }  # fmt: skip
    if intervals:
        two = confusion_intervals(
            ill.astype(np.int64), said.astype(np.int64), ("benign", "malignant"), 0, groups,
            prevalence=policy.prevalence,
        )  # fmt: skip
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            found["at_threshold"][f"malignant_{name}_ci"] = _listed(two[f"malignant_{name}"])
    return found
