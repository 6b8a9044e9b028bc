"""Results as files, tables and lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcd.data.catalog import Catalog
from bcd.data.reading import read_image
from bcd.evaluation.calibration import reliability
from bcd.evaluation.conformal import (
    risk_coverage,
)
from bcd.evaluation.metrics import HEADLINE
from bcd.evaluation.predictions import write_predictions
from bcd.evaluation.results import Result
from bcd.reporting.curves import draw_reliability, draw_risk_coverage
from bcd.reporting.figures import draw_confusion, draw_mistakes, save_figure
from bcd.storage import write_text


def write_results(run_dir: Path, catalog: Catalog, results: Mapping[str, Result]) -> None:
    """Writes `metrics.json`, and of the last part named the predictions and figures."""
    metrics = {name: result.metrics for name, result in results.items()}
    write_text(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    name, result = list(results.items())[-1]
    write_predictions(run_dir / "predictions.csv", result.predictions, catalog.classes)
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
        lambda i: read_image(catalog.root / result.predictions[i].path),
    )
    if mistakes is not None:
        save_figure(mistakes, figures / "mistakes.png")


# The figures in tables beside the headline, where a part has them, with what they are called.
_MORE = {
    "at_threshold.malignant_sensitivity": "malignant sensitivity",
    "at_threshold.malignant_specificity": "malignant specificity",
    "malignant_sensitivity": "malignant sensitivity, most probable class",
    "malignant_specificity": "malignant specificity, most probable class",
    "ece": "ece",
    "ece_debiased": "ece, debiased",
    "ece_chance.mean": "ece by chance alone, mean",
    "ece_chance.quantile_95": "ece by chance alone, 95 % quantile",
    "accuracy_without_leaked": "accuracy without leaked",
    "referred": "referred",
    "accuracy_decided": "accuracy decided",
}


def metric_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Rows for a table: a figure's name, then its value on each part, with its 95 % interval."""
    rows = [[name, *_cells(results, name)] for name in HEADLINE]
    more = [[title, *_cells(results, name)] for name, title in _MORE.items()]
    rows += [row for row in more if any(row[1:])]
    rows.append(["images", *_cells(results, "n")])
    if any(r.metrics.get("leaked") for r in results.values()):
        rows.append(["leaked images", *_cells(results, "leaked")])
    return rows


def absent_line(metrics: Mapping[str, Any]) -> str:
    """Which classes there is no image of, and what that means; empty where all occur."""
    absent = [name for name, count in metrics["n_by_class"].items() if not count]
    if not absent:
        return ""
    return (
        f"no image of {', '.join(absent)}: macro averages are over the other "
        f"{len(metrics['n_by_class']) - len(absent)} classes"
    )


def _cells(results: Mapping[str, Result], name: str) -> list[str]:
    """A figure of each part, empty where a part has none."""
    return [figure_text(result.metrics, name) for result in results.values()]


def figure_text(metrics: Mapping[str, Any], name: str) -> str:
    """A figure with its interval, as in `0.9790 [0.966, 0.988]`; empty where there is none.

    Args:
        metrics: The figures.
        name: Of the figure; behind a dot, of one within another.
    """
    outer, _, inner = name.partition(".")
    if inner:
        return figure_text(metrics.get(outer) or {}, inner)
    value, interval = metrics.get(name), metrics.get(f"{name}_ci")
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if interval is None else f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]"


def calibration_line(metrics: Mapping[str, Any]) -> str:
    """Tells the expected calibration error on test beside what chance alone would show."""
    chance = metrics["ece_chance"]
    return (
        f"Expected calibration error on test {metrics['ece_uncalibrated']:.4f} before, "
        f"{metrics['ece']:.4f} after; debiased {metrics['ece_debiased']:.4f}. With as many "
        "independent images and these confidences, a perfectly calibrated model would show "
        f"{chance['mean']:.4f} on average and stay below {chance['quantile_95']:.4f} in 95 % of "
        "cases."
    )
