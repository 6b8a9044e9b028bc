"""Ranks configurations on val, and reads the predictions of their runs.

The statistics of the comparison with the best are in `multiple_comparisons`.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.intervals import Interval
from bcd.sweeps.configurations import Configuration
from bcd.sweeps.multiple_comparisons import (
    Floats,
    Numbers,
    VersusBest,
    compare_with_best,
    find_best,
    numbered,
)

BEST, WORSE = "best", "worse than the best"
INDISTINGUISHABLE = "not distinguishable from the best"
NOT_COMPARABLE = "not comparable: no image in common with the best"
NONE_FINISHED = "no trial finished"


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard.

    Attributes:
        configuration: The configuration.
        mean: Mean accuracy on val over its runs; NaN if none finished.
        sd: Standard deviation over its runs; None if there is one run.
        pooled: Share of correct predictions over all runs.
        interval: 95 % interval of that share, over images or clusters.
        n: Number of predictions.
        versus_best: Comparison with the best; None for the best and if not comparable.
        verdict: One of the constants of this module.
    """

    configuration: Configuration
    mean: float
    sd: float | None
    pooled: float
    interval: Interval | None
    n: int
    versus_best: VersusBest | None
    verdict: str


@dataclass(frozen=True)
class _Predictions:
    """Which predictions are correct, in the form that `multiple_comparisons` takes."""

    correct: Floats
    clusters: Numbers
    runs: Numbers


def rank(sweep: Path, configurations: Sequence[Configuration]) -> list[Row]:
    """Ranks configurations on val and compares each with the best, on images of the same runs.

    Configurations with fewer finished runs than others come after those with all runs, and those
    without any come last.

    Args:
        sweep: Folder of the sweep.
        configurations: Of its trials.
    """
    known = [s for s in configurations if s.done]
    if not known:
        return [_without_runs(s) for s in configurations]
    predictions = _read_predictions(sweep, known)
    most = max(len(s.done) for s in known)
    whole = [i for i, s in enumerate(known) if len(s.done) == most]
    ties = np.array([statistics.fmean(t.loss for t in s.done) for s in known])
    ties = np.nan_to_num(ties, nan=np.inf)
    best = whole[find_best(predictions.correct[whole], ties[whole])]
    versus = compare_with_best(predictions.correct, best, predictions.clusters, predictions.runs)
    rows = [_row(s, predictions, i, versus[i], i == best) for i, s in enumerate(known)]
    order = sorted(
        range(len(known)), key=lambda i: (i != best, i not in whole, -rows[i].pooled, ties[i])
    )
    return [rows[i] for i in order] + [_without_runs(s) for s in configurations if not s.done]


def _without_runs(configuration: Configuration) -> Row:
    return Row(configuration, float("nan"), None, float("nan"), None, 0, None, NONE_FINISHED)


def _row(
    configuration: Configuration,
    predictions: _Predictions,
    place: int,
    versus: VersusBest | None,
    best: bool,
) -> Row:
    correct = predictions.correct[place]
    has_prediction = ~np.isnan(correct)
    mean, sd = spread([trial.accuracy for trial in configuration.done])
    pooled, interval = pooled_accuracy(
        correct[has_prediction], predictions.clusters[has_prediction]
    )
    if best:
        verdict = BEST
    elif versus is None:
        verdict = NOT_COMPARABLE
    else:
        verdict = WORSE if versus.p_value < 0.05 else INDISTINGUISHABLE
    n = int(has_prediction.sum())
    return Row(configuration, mean, sd, pooled, interval, n, versus, verdict)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation; the latter is None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def pooled_accuracy(correct: Floats, clusters: Numbers) -> tuple[float, Interval]:
    """Share of correct predictions and its 95 % interval.

    Args:
        correct: (n,), 1 or 0.
        clusters: (n,), the image or group of each prediction.
    """
    truth, predicted = np.ones(len(correct), np.int64), correct.astype(np.int64)
    found = confusion_intervals(truth, predicted, ("wrong", "correct"), None, clusters)
    low, high = found["accuracy"]
    return float(correct.mean()), (low, high)


def read_correct(folder: Path, file: str) -> dict[str, tuple[str, float]]:
    """By image path: its cluster (itself without one), and whether the prediction is correct.

    Args:
        folder: Of the run.
        file: Name of its predictions in CSV.
    """
    with (folder / "split.csv").open(newline="", encoding="utf-8") as stream:
        cluster = {row["path"]: row["cluster"] for row in csv.DictReader(stream)}
    with (folder / file).open(newline="", encoding="utf-8") as stream:
        return {
            row["path"]: (
                f"in {cluster[row['path']]}" if cluster[row["path"]] else row["path"],
                float(row["label"] == row["prediction"]),
            )
            for row in csv.DictReader(stream)
        }


def _read_predictions(sweep: Path, configurations: Sequence[Configuration]) -> _Predictions:
    from bcd.training.run import VAL_PREDICTIONS

    by_configuration: list[dict[tuple[tuple[int, ...], str], float]] = []
    clusters: dict[tuple[tuple[int, ...], str], str] = {}
    for configuration in configurations:
        own = {}
        for trial in configuration.done:
            for path, (group, is_correct) in read_correct(
                sweep / trial.name, VAL_PREDICTIONS
            ).items():
                own[trial.run, path] = is_correct
                clusters[trial.run, path] = group
        by_configuration.append(own)
    cells = list(clusters)
    correct = np.array([[own.get(cell, np.nan) for cell in cells] for own in by_configuration])
    runs = numbered([str(run) for run, _ in cells])
    return _Predictions(correct, numbered(list(clusters.values())), runs)
