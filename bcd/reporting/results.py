"""Results of a run as files, tables and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.data.catalog import Catalog
from bcd.data.reading import read_image
from bcd.evaluation.chart_data import errors_by_group
from bcd.evaluation.intervals import FEW_GROUPS, WORST_COVERAGE_FEW_GROUPS
from bcd.evaluation.metrics import HEADLINE_METRICS
from bcd.evaluation.predictions import find_mistakes, write_predictions
from bcd.evaluation.results import Result
from bcd.reporting.curves import draw_reliability, draw_risk_coverage
from bcd.reporting.figures import draw_confusion, draw_curves, draw_mistakes, save_png
from bcd.reporting.interval_figures import MOST_GROUPS, draw_group_errors, draw_intervals
from bcd.reporting.ranking_figures import draw_precision_recall, draw_roc, draw_scores
from bcd.reporting.svg import save_svg
from bcd.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_results(
    run_dir: Path,
    catalog: Catalog,
    results: Mapping[str, Result],
    groups: Sequence[str] = (),
    full: bool = False,
) -> None:
    """Writes `metrics.json`, and predictions and figures of the last set named.

    Args:
        run_dir: Folder of the run.
        catalog: Holds the images.
        results: By the name of the set, such as `val` and `test`.
        groups: Group of each image of the last set, empty if unknown.
        full: Whether to draw more figures: curves of each class, histograms, errors by group.
    """
    write_metrics(run_dir, results)
    name, result = list(results.items())[-1]
    classes = catalog.classes[: result.probabilities.shape[1]]
    write_predictions(run_dir / "predictions.csv", result.predictions, classes)
    if "confusion" not in result.metrics:  # labels that are no class of the model
        return
    title = f"{name}, n = {result.metrics['n']}"
    drawn = _figures(result, catalog, title)
    if full:
        drawn |= _more_figures(result, catalog.benign, groups, title)
    for file, figure in drawn.items():
        if figure is not None:
            save_svg(figure, run_dir / "figures" / f"{file}.svg")


def write_curves(run_dir: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draws the figures of each epoch, as `figures/curves.svg`."""
    save_svg(draw_curves(history), run_dir / "figures" / "curves.svg")


def write_mistakes(run_dir: Path, catalog: Catalog, result: Result) -> None:
    """Draws the most confident errors, for results without a gallery; nothing without errors.

    Args:
        run_dir: Folder of the results; the figure is `figures/mistakes.png`.
        catalog: Holds the images.
        result: Nothing is drawn if its labels are no classes of the model.
    """
    if "confusion" not in result.metrics:
        return
    mistakes = find_mistakes(result.predictions, catalog.classes)
    drawn = draw_mistakes(mistakes, lambda i: read_image(catalog.root / result.predictions[i].path))
    if drawn is not None:
        save_png(drawn, run_dir / "figures" / "mistakes.png")


def _figures(result: Result, catalog: Catalog, title: str) -> dict[str, Figure | None]:
    """The figures of every set, by the name of their file."""
    return {
        "confusion_matrix": draw_confusion(result.metrics["confusion"], catalog.classes, title),
        "intervals": draw_intervals(result.metrics, title),
        "reliability": draw_reliability(*result.reliability, title),
        "risk_coverage": draw_risk_coverage(*result.risk_coverage, title),
    }


def _more_figures(
    result: Result, benign: int | None, groups: Sequence[str], title: str
) -> dict[str, Figure | None]:
    """The further figures of a full report, by the name of their file."""
    probabilities, labels, metrics = result.probabilities, result.labels, result.metrics
    drawn: dict[str, Figure | None] = {
        "precision_recall": draw_precision_recall(probabilities, labels, metrics, title),
        "roc": draw_roc(probabilities, labels, metrics, title),
    }
    if benign is not None:
        threshold = metrics.get("at_threshold", {}).get("threshold")
        p = 1 - probabilities[:, benign]
        drawn["scores"] = draw_scores(p, labels != benign, threshold, title)
    if found := errors_by_group(groups, probabilities.argmax(axis=1) != labels):
        drawn["group_errors"] = draw_group_errors(found[:MOST_GROUPS], len(found), title)
    return drawn


def write_metrics(run_dir: Path, results: Mapping[str, Result]) -> None:
    """Writes `metrics.json`, by the name of the set."""
    metrics = {name: result.metrics for name, result in results.items()}
    write_text(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")


# Shares of unsafe answers in tables, which have them below the accuracy, and their titles.
UNSAFE_TITLES = {
    "unsafe_malignant": "unsafe, of malignant images",
    "unsafe_benign": "unsafe, of benign images",
}
# The same where columns are narrow.
UNSAFE_COLUMNS = {"unsafe_malignant": "unsafe, malignant", "unsafe_benign": "unsafe, benign"}
# Further metrics in tables, where a set has them, and their titles.
_MORE = {
    "at_threshold.malignant_sensitivity": "malignant sensitivity",
    "at_threshold.malignant_specificity": "malignant specificity",
    "malignancy.auroc": "AUROC of malignancy",
    "malignancy.loss": "loss, benign against malignant",
    "malignancy.ece_debiased": "ece, benign against malignant, debiased",
    "malignant_sensitivity": "malignant sensitivity, most probable class",
    "malignant_specificity": "malignant specificity, most probable class",
    "ece": "ece",
    "ece_debiased": "ece, debiased",
    "ece_if_calibrated.mean": "ece of a calibrated model, mean",
    "ece_if_calibrated.quantile_95": "ece of a calibrated model, 95 % quantile",
    "accuracy_without_leaked": "accuracy without leaked images",
    "referred": "referred",
    "accuracy_decided": "accuracy on decided images",
}


def metric_rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Rows for a table: name of a metric, then its value with 95 % interval on each set."""
    first, *others = ([name, *_cells(results, name)] for name in HEADLINE_METRICS)
    unsafe, more = (
        [[title, *_cells(results, name)] for name, title in titles.items()]
        for titles in (UNSAFE_TITLES, _MORE)
    )
    rows = list(filter(_has_value, [first, *unsafe, *others, *more]))
    rows.append(["images", *_cells(results, "n")])
    if any(r.metrics.get("leaked") for r in results.values()):
        rows.append(["leaked images", *_cells(results, "leaked")])
    return rows


def _has_value(row: list[str]) -> bool:
    return any(row[1:])


def absent_classes_note(metrics: Mapping[str, Any]) -> str:
    """States which classes have no image, and what follows; empty if all occur."""
    counts = metrics.get("n_by_class", {})
    absent = [name for name, count in counts.items() if not count]
    if not absent:
        return ""
    left = len(counts) - len(absent)
    return (
        f"no images of {', '.join(absent)}: macro averages are over the other "
        f"{'class' if left == 1 else f'{left} classes'}"
    )


def rejected_line(count: int) -> str:
    """States how many files were rejected, at least one."""
    return f"rejected: {count} {'file' if count == 1 else 'files'}, listed in run.json"


def few_groups_warning(metrics: Mapping[str, Any]) -> str:
    """Warns of intervals over few groups; empty if there are enough, or none.

    Args:
        metrics: With `n_groups` and `effective_groups`, if they have intervals.
    """
    effective = metrics.get("effective_groups")
    if effective is None or effective >= FEW_GROUPS:
        return ""
    named = metrics.get("n_ungrouped", -1) != metrics.get("n")
    what = "groups" if named else "sets of overlapping images"
    return (
        f"{metrics['n_groups']} {what} correspond to {effective:.1f} groups of equal size. With so "
        "few, intervals are too narrow if groups differ strongly: in simulations, 95 % intervals "
        "of the accuracy contained the true value in as few as "
        f"{100 * WORST_COVERAGE_FEW_GROUPS:.0f} % of cases."
    )


def _cells(results: Mapping[str, Result], name: str) -> list[str]:
    """A metric on each set, empty where it is missing."""
    return [metric_text(result.metrics, name) for result in results.values()]


def metric_text(metrics: Mapping[str, Any], name: str) -> str:
    """A metric with its interval, as in `0.9790 [0.966, 0.988]`; empty if it is missing.

    Args:
        metrics: The metrics.
        name: Of the metric; `outer.inner` for a nested one.
    """
    outer, _, inner = name.partition(".")
    if inner:
        return metric_text(metrics.get(outer) or {}, inner)
    value, interval = metrics.get(name), metrics.get(f"{name}_ci")
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if interval is None else f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]"


def calibration_line(metrics: Mapping[str, Any]) -> str:
    """States the expected calibration error on test and that of a calibrated model."""
    chance = metrics["ece_if_calibrated"]
    return (
        f"Expected calibration error on test: {metrics['ece_uncalibrated']:.4f} before temperature "
        f"scaling, {metrics['ece']:.4f} after, {metrics['ece_debiased']:.4f} debiased. A perfectly "
        "calibrated model with the same confidences on the same number of independent images "
        f"would show {chance['mean']:.4f} on average and less than {chance['quantile_95']:.4f} "
        "in 95 % of cases."
    )
