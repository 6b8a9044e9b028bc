"""Mean, standard deviation and range of test metrics over runs, or their predictions pooled.

States which of seed and split.seed varied; if both did, also the standard deviations between splits
and within one split.

python -m bench.seeds <folder of runs>
python -m bench.seeds <folder of folds> --pool
python -m bench.seeds <folder with a sweep for each fold> --pool
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from bcd.audit.sources import BRIEF_SOURCES
from bcd.data.layouts import benign_index
from bcd.evaluation.bootstrap import fill_group_names
from bcd.evaluation.conformal import selective_accuracy
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.metrics import HEADLINE_METRICS, compute_metrics
from bcd.run_folder import is_sweep, read_winner
from bcd.sweeps.exposure import read_subsets

AT_THRESHOLD = ("guaranteed_sensitivity", "malignant_sensitivity", "malignant_specificity")
BY_CLASS = ("malignant_sensitivity", "malignant_specificity")  # by the most probable class
FIGURES = (
    *HEADLINE_METRICS, "balanced_accuracy", "ece_uncalibrated", "ece", "coverage", "referred",
    *BRIEF_SOURCES,
    *(f"{name} by threshold" for name in AT_THRESHOLD),
    *(f"{name} by class" for name in BY_CLASS),
)  # fmt: skip


def main() -> None:
    """Prints a Markdown table: a row for each run, then the summary."""
    parser = argparse.ArgumentParser(prog="python -m bench.seeds", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        help="folder of runs, each with a metrics.json, of a sweep, for its best configuration, or "
        "of sweeps, for the best of each",
    )
    parser.add_argument("--pool", action="store_true", help="pool the predictions of folds")
    asked = parser.parse_args()
    runs = find_runs(asked.folder)
    if len(runs) < 2:
        parser.error(f"{asked.folder} has {len(runs)} runs; at least two are needed")
    tests = [_figures(run) for run in runs]
    seeds = [read_seeds(run) for run in runs]
    print(f"| run | {' | '.join(Seeds._fields)} | {' | '.join(FIGURES)} | n |")
    print("|---|" + "---:|" * (len(Seeds._fields) + len(FIGURES) + 1))
    for run, own, test in zip(runs, seeds, tests, strict=True):
        cells = [*map(str, own), *(f"{test[name]:.4f}" for name in FIGURES)]
        name = run.relative_to(asked.folder).as_posix()
        print(f"| {name} | {' | '.join(cells)} | {test['n']} |")
    columns = [[test[name] for test in tests] for name in FIGURES]
    spread = [f"{statistics.mean(c):.4f} ± {statistics.stdev(c):.4f}" for c in columns]
    _print_summary("mean ± sd", spread)
    _print_summary("range", [f"{min(c):.4f} to {max(c):.4f}" for c in columns])
    for title, share in spreads(seeds):
        _print_summary(title, [f"{share(c):.4f}" for c in columns])
    print(f"\n{varied(seeds)}; {count_test_sets(runs)}")
    kept = [test["selective_accuracy"] for test in tests]
    surest = {c: statistics.mean(k[c] for k in kept) for c in kept[0]}
    text = ", ".join(f"{value:.4f} at {float(c):.0%}" for c, value in surest.items())
    print(f"\naccuracy if only the most confident are decided, mean over runs: {text}")
    if asked.pool:
        _pool(runs)
        covered = sum(test["coverage"] * test["n"] for test in tests) / sum(t["n"] for t in tests)
        print(f"sets that contain the true class: {covered:.4f}")


def find_runs(folder: Path) -> list[Path]:
    """The tested runs of a folder of runs, of a sweep's winner, or of the winners of sweeps."""
    if is_sweep(folder):  # an extended sweep has tested more than its winner
        runs = [folder / name for name in read_winner(folder).trials]
        return [run for run in runs if (run / "metrics.json").is_file()]
    sweeps = [below for below in sorted(folder.iterdir()) if is_sweep(below)]
    if sweeps:
        return [run for sweep in sweeps for run in find_runs(sweep)]
    return sorted(file.parent for file in folder.glob("*/metrics.json"))


class Seeds(NamedTuple):
    """What can be repeated of a run: its seed, its split's seed and the fold."""

    seed: int
    split_seed: int
    fold: int


def read_seeds(run: Path) -> Seeds:
    """Reads them from a run's configuration."""
    plain = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return Seeds(plain["seed"], plain["split"]["seed"], plain["split"]["fold"])


def varied(seeds: Sequence[Seeds]) -> str:
    """States which of them differ between runs."""
    text = []
    for name, values in zip(Seeds._fields, zip(*seeds, strict=True), strict=True):
        found = sorted(set(values))
        text.append(f"{name} {'varied: ' if len(found) > 1 else ''}{', '.join(map(str, found))}")
    return "; ".join(text)


def count_test_sets(runs: Sequence[Path]) -> str:
    """Number of distinct test sets of the runs, from their `split.csv`, in words."""
    found = {frozenset(read_subsets(run)["test"]) for run in runs}
    return "one test set" if len(found) == 1 else f"{len(found)} different test sets"


def spreads(
    seeds: Sequence[Seeds],
) -> list[tuple[str, Callable[[Sequence[float]], float]]]:
    """How metrics vary between splits and within one, if splits were trained several times.

    Returns:
        Titles, and functions that compute each from a metric of all runs; empty unless several
        splits were trained with several seeds.
    """
    splits: dict[tuple[int, int], list[int]] = {}
    for place, own in enumerate(seeds):
        splits.setdefault((own.split_seed, own.fold), []).append(place)
    if len(splits) < 2 or min(map(len, splits.values())) < 2:
        return []

    def between(column: Sequence[float]) -> float:
        means = [statistics.mean(column[i] for i in places) for places in splits.values()]
        return statistics.stdev(means)

    def within(column: Sequence[float]) -> float:
        own = [statistics.variance([column[i] for i in places]) for places in splits.values()]
        return math.sqrt(statistics.mean(own))

    return [("sd of the means of splits", between), ("sd within a split", within)]


def _print_summary(title: str, cells: Sequence[str]) -> None:
    print(f"| {title} | {'| ' * len(Seeds._fields)}| {' | '.join(cells)} | |")


def _figures(run: Path) -> dict[str, Any]:
    test: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    checks = json.loads((run / "audit.json").read_text(encoding="utf-8"))["checks"]
    scores = [score for check in checks for score in check["facts"].get("scores", ())]
    text = {s["source"]: s["balanced_accuracy"] for s in scores}
    probes = {name: text.get(name, math.nan) for name in BRIEF_SOURCES}  # NaN if not measured
    at = test.get("at_threshold", {})  # missing if no class is benign
    clinical = {f"{name} by threshold": at.get(name, math.nan) for name in AT_THRESHOLD}
    clinical |= {f"{name} by class": test.get(name, math.nan) for name in BY_CLASS}
    return {**test, "coverage": test["prediction_sets"]["coverage"], **probes, **clinical}


def _pool(runs: Sequence[Path]) -> None:
    rows, groups = [], []
    for run in runs:
        with (run / "split.csv").open(newline="", encoding="utf-8") as stream:
            group = {row["path"]: row["cluster"] for row in csv.DictReader(stream)}
        with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
            own = list(csv.DictReader(stream))
        rows += own
        groups += [group[row["path"]] or row["path"] for row in own]  # runs may share images
    classes = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    labels = np.array([classes.index(row["label"]) for row in rows])
    probabilities = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    plain = yaml.safe_load((runs[0] / "config.yaml").read_text(encoding="utf-8"))
    benign = benign_index(classes, plain["data"]["benign"])
    metrics = compute_metrics(probabilities, labels, classes, benign)
    named = fill_group_names(groups)
    limits = confusion_intervals(labels, probabilities.argmax(axis=1), classes, benign, named)
    print(f"\npooled, n = {len(rows)}, {len(set(named or ()))} clusters:")
    for name in ("accuracy", "balanced_accuracy", "f1", *(() if benign is None else BY_CLASS)):
        low, high = limits[name]
        print(f"{name} {metrics[name]:.4f} [{low:.3f}, {high:.3f}]")
    right = probabilities.argmax(axis=1) == labels
    kept = selective_accuracy(probabilities.max(axis=1), right)
    text = ", ".join(f"{value:.4f} at {float(c):.0%}" for c, value in kept.items())
    print(f"accuracy if only the most confident are decided: {text}")
    recalls = ", ".join(f"{k} {v:.4f}" for k, v in metrics["sensitivity_by_class"].items())
    print(f"ece {metrics['ece']:.4f}; sensitivity {recalls}")


if __name__ == "__main__":
    main()
