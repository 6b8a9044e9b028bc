"""Evaluates answers to pictures of a catalog, and writes what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.evaluation.bootstrap import effective_groups, named_groups
from bcd.evaluation.calibration import chance_level, debiased_error, reliability
from bcd.evaluation.collect import Answers, check_finite, softmax
from bcd.evaluation.conformal import (
    area_under_risk,
    prediction_sets,
    risk_coverage,
    selective_accuracy,
    set_figures,
)
from bcd.evaluation.decision import Judge, Judged, count_reasons, p_malignant, referred
from bcd.evaluation.intervals import confusion_intervals, wilson
from bcd.evaluation.metrics import clinical_at_threshold, compute_metrics, losses
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.probability_intervals import probability_intervals

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """What came out on one set of pictures.

    Attributes:
        metrics: The figures, ready for JSON.
        predictions: Of each picture.
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
    judge: Judge,
    catalog: Catalog,
    indices: Sequence[int],
    groups: Sequence[str] = (),
    intervals: bool = True,
) -> Result:
    """Judges answers and computes every figure of them.

    Args:
        answers: To the pictures of `indices`, in that order.
        judge: Calibrates and refers.
        catalog: Names the pictures and classes.
        indices: Of the pictures, in the catalog.
        groups: What each picture belongs to; intervals are over groups where there are any.
        intervals: Whether to give them; to pictures that something was chosen on they mean nothing.

    Raises:
        BcdError: An answer is not finite.
    """
    check_finite(answers, [catalog.pictures[i].path for i in indices])
    judged = judge.answer(answers.logits, answers.features)
    probabilities = judged.probabilities
    uncalibrated = softmax(np.asarray(answers.logits, np.float64))
    labels, classes, benign = answers.labels, catalog.classes, catalog.benign
    named = named_groups(groups) if groups else None
    metrics = compute_metrics(probabilities, labels, classes, benign, judge.prevalence)
    metrics |= {
        "calibrated": judge.calibrated,
        "ece_debiased": debiased_error(probabilities, labels),
        "ece_chance": chance_level(probabilities)._asdict(),
        "ece_uncalibrated": reliability(uncalibrated, labels).ece,
        "loss_uncalibrated": float(losses(uncalibrated, labels).mean()),
        **_abstention(judged, labels),
    }
    if judge.calibrated:
        metrics |= _decided(judge, judged, labels, catalog, named, intervals)
    if intervals:
        metrics |= _intervals(probabilities, labels, catalog, named, judge.prevalence)
    predictions = tuple(
        judged.prediction(place, catalog.pictures[i].path, classes[label])
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
    """95 % intervals as `<figure>_ci`, and that of accuracy were pictures independent."""
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


def _abstention(judged: Judged, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Figures of what is referred, and of what abstaining would buy."""
    confidence = judged.probabilities.max(axis=1)
    right = judged.probabilities.argmax(axis=1) == labels
    away = referred(judged.reasons)
    return {
        "referred": float(away.mean()),
        "referred_for": count_reasons(judged.reasons),
        "accuracy_decided": float(right[~away].mean()) if not away.all() else None,
        "selective_accuracy": selective_accuracy(confidence, right),
        "area_under_risk": area_under_risk(risk_coverage(confidence, right)[1]),
    }


def _decided(
    judge: Judge,
    judged: Judged,
    labels: NDArray[np.int64],
    catalog: Catalog,
    groups: list[str] | None,
    intervals: bool,
) -> dict[str, Any]:
    """Figures of prediction sets and of the threshold for malignancy, beside what was promised."""
    sets = prediction_sets(judged.probabilities, judge.set_from)
    about = {"by_groups": judge.by_groups, "about": judge.about}
    found: dict[str, Any] = {
        "sets": {
            "wanted": judge.coverage,
            "promised": judge.covered,
            "promised_from": judge.units,
            **about,
            **set_figures(sets, labels, catalog.classes),
        }
    }
    said = judge.malignant(judged.probabilities)
    if judge.benign is None or judge.malignant_from is None or said is None:
        return found
    ill = labels != judge.benign
    found["at_threshold"] = {
        "wanted_sensitivity": judge.sensitivity,
        "promised_sensitivity": judge.sensitivity_kept,
        "confidence": judge.confidence,
        "promised_from": judge.malignant_units,
        **about,
        **clinical_at_threshold(
            p_malignant(judged.probabilities, judge.benign), ill, judge.malignant_from,
            judge.prevalence,
        ),
    }  # fmt: skip
    if intervals:
        two = confusion_intervals(
            ill.astype(np.int64), said.astype(np.int64), ("benign", "malignant"), 0, groups,
            prevalence=judge.prevalence,
        )  # fmt: skip
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            found["at_threshold"][f"malignant_{name}_ci"] = _listed(two[f"malignant_{name}"])
    return found
