"""Evaluates answers to pictures of a catalog, and writes what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.reading import read_picture
from bcd.evaluation.bootstrap import named_groups
from bcd.evaluation.calibration import draw_reliability, reliability
from bcd.evaluation.collect import Answers, softmax
from bcd.evaluation.conformal import (
    area_under_risk,
    draw_risk_coverage,
    prediction_sets,
    risk_coverage,
    selective_accuracy,
    set_figures,
)
from bcd.evaluation.figures import draw_confusion, draw_mistakes, save_figure
from bcd.evaluation.intervals import confusion_intervals, wilson
from bcd.evaluation.judge import Judge, referred
from bcd.evaluation.metrics import HEADLINE, clinical_at_threshold, compute_metrics, losses
from bcd.evaluation.predictions import Prediction, write_predictions
from bcd.evaluation.probability_intervals import probability_intervals
from bcd.storage import write_text

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
    """
    probabilities, reasons = judge.answer(answers.logits, answers.features)
    uncalibrated = softmax(np.asarray(answers.logits, np.float64))
    labels, classes, benign = answers.labels, catalog.classes, catalog.benign
    metrics = compute_metrics(probabilities, labels, classes, benign, judge.prevalence)
    metrics |= {
        "ece_uncalibrated": reliability(uncalibrated, labels).ece,
        "loss_uncalibrated": float(losses(uncalibrated, labels).mean()),
        **_abstention(probabilities, labels, catalog, judge, reasons),
    }
    if intervals:
        named = named_groups(groups) if groups else None
        metrics |= _intervals(probabilities, labels, catalog, named)
    predictions = tuple(
        Prediction(catalog.pictures[i].path, classes[label], tuple(map(float, row)), refer=reason)
        for i, label, row, reason in zip(indices, labels, probabilities, reasons, strict=True)
    )
    return Result(metrics, predictions, uncalibrated, probabilities, labels)


def _intervals(
    probabilities: Floats, labels: NDArray[np.int64], catalog: Catalog, groups: list[str] | None
) -> dict[str, Any]:
    """95 % intervals as `<figure>_ci`, and that of accuracy were pictures independent."""
    predictions = probabilities.argmax(axis=1)
    found = {
        **confusion_intervals(labels, predictions, catalog.classes, catalog.benign, groups),
        **probability_intervals(probabilities, labels, catalog.classes, groups),
    }
    right = int((predictions == labels).sum())
    return {
        **{f"{name}_ci": _listed(value) for name, value in found.items()},
        "accuracy_ci_wilson_iid": list(wilson(right, len(labels))),
        "groups": None if groups is None else len(set(groups)),
    }


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(inner) for name, inner in value.items()}
    return None if value is None else [float(limit) for limit in value]


def _abstention(
    probabilities: Floats,
    labels: NDArray[np.int64],
    catalog: Catalog,
    judge: Judge,
    reasons: Sequence[str],
) -> dict[str, Any]:
    """Figures of what is referred, of sets, and of the threshold for malignancy."""
    right = probabilities.argmax(axis=1) == labels
    away = referred(reasons)
    _, risk = risk_coverage(probabilities.max(axis=1), right)
    sets = prediction_sets(probabilities, judge.set_from)
    found: dict[str, Any] = {
        "referred": float(away.mean()),
        "referred_for": {name: reasons.count(name) for name in sorted(set(reasons) - {""})},
        "accuracy_decided": float(right[~away].mean()) if not away.all() else None,
        "selective_accuracy": selective_accuracy(probabilities.max(axis=1), right),
        "area_under_risk": area_under_risk(risk),
        "sets": {"wanted": judge.coverage, **set_figures(sets, labels, catalog.classes)},
    }
    if catalog.benign is not None and judge.malignant_from is not None:
        ill = 1 - probabilities[:, catalog.benign]
        found["at_threshold"] = {
            "wanted_sensitivity": judge.sensitivity,
            **clinical_at_threshold(
                ill, labels != catalog.benign, judge.malignant_from, judge.prevalence
            ),
        }
    return found


def write_results(run_dir: Path, catalog: Catalog, results: Mapping[str, Result]) -> None:
    """Writes `metrics.json`, and of the last part named the predictions and figures."""
    metrics = {name: result.metrics for name, result in results.items()}
    write_text(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    name, result = list(results.items())[-1]
    write_predictions(
        run_dir / "predictions.csv", result.predictions, catalog.classes, catalog.benign
    )
    figures = run_dir / "figures"
    title = f"{name}, n = {result.metrics['n']}"
    figure = draw_confusion(result.metrics["confusion"], catalog.classes, title)
    save_figure(figure, figures / "confusion_matrix.png")
    before = reliability(result.uncalibrated, result.labels)
    after = reliability(result.probabilities, result.labels)
    save_figure(draw_reliability(before, after), figures / "reliability.png")
    right = result.probabilities.argmax(axis=1) == result.labels
    curve = risk_coverage(result.probabilities.max(axis=1), right)
    save_figure(draw_risk_coverage(*curve, title), figures / "risk_coverage.png")
    mistakes = draw_mistakes(
        result.predictions,
        catalog.classes,
        lambda i: read_picture(catalog.root / result.predictions[i].path),
    )
    if mistakes is not None:
        save_figure(mistakes, figures / "mistakes.png")


# The figures in tables beside the headline, where a part has them.
_MORE = (
    "malignant_sensitivity",
    "malignant_specificity",
    "ece",
    "accuracy_without_leaked",
    "referred",
    "accuracy_decided",
)


def metric_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Rows for a table: a figure's name, then its value on each part, with its 95 % interval."""
    have = [n for n in _MORE if any(r.metrics.get(n) is not None for r in results.values())]
    rows = [[n.replace("_", " "), *_cells(results, n)] for n in (*HEADLINE, *have)]
    rows.append(["pictures", *_cells(results, "n")])
    if any(r.metrics.get("leaked") for r in results.values()):
        rows.append(["leaked pictures", *_cells(results, "leaked")])
    return rows


def _cells(results: Mapping[str, Result], name: str) -> list[str]:
    """A figure of each part, empty where a part has none."""
    return [figure_text(result.metrics, name) for result in results.values()]


def figure_text(metrics: Mapping[str, Any], name: str) -> str:
    """A figure with its interval, as in `0.9790 [0.966, 0.988]`; empty where there is none."""
    value, interval = metrics.get(name), metrics.get(f"{name}_ci")
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if interval is None else f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]"
