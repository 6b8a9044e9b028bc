"""Compares recipes on random, grouped and contiguous splits, under corruptions, and elsewhere.

Runs are kept in the folder `--work`; existing ones are reused. Corruptions (`standard`) and the
other hospital are evaluated with the runs of the grouped split.

python -m bench.recipes <folder of class folders> <folder of benign cells> [--weights <file>]
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bcd.evaluation.unsafe import UNSAFE_SHARES
from bench.measure import machine, run_timed

RECIPES = ("paper", "best_frozen", "frozen_views", "finetune", "robust")
FOLDS = 5
SITE = "cells"
HEADER = "accuracy | unsafe, of malignant | unsafe, of benign | referred"
Row = dict[str, Any]
Summary = Callable[[Iterable[float]], float]


class Shares(NamedTuple):
    """Shares of images; None if there are no such images."""

    accuracy: float
    unsafe_malignant: float | None
    unsafe_benign: float | None
    referred: float
    n: int


class Runs(NamedTuple):
    """The folders of a recipe's runs by split."""

    random: list[Path]
    grouped: list[Path]
    folds: list[Path]


def main() -> None:
    """Trains each recipe on each split, evaluates, and prints tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.recipes", description=__doc__)
    parser.add_argument("data", help="folder of class folders, to train and test on")
    parser.add_argument("cells", help="folder of class folders, all of them benign")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of split and training, together"
    )
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument(
        "--clean", nargs="+", default=["frozen_views"], metavar="RECIPE",
        help="recipes that take too long to evaluate on more images than their test sets",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, help="folder of the runs; existing ones are reused")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench_recipes_"))
    print(f"{machine()}; runs in {work}", flush=True)
    base = [f"data.root={asked.data}", f"model.weights={asked.weights}"]
    base += ["callbacks.progress=null", "+trainer.enable_progress_bar=false"]
    trained = {}
    for recipe in asked.recipes:
        trained[recipe] = _train(work / recipe, recipe, base, asked.seeds)
        for run in trained[recipe].grouped if recipe not in asked.clean else ():
            _evaluate(run, "corruptions", ["corruptions=standard"])
            site = [f"+sites.{SITE}.root={asked.cells}", f"+sites.{SITE}.map=benign"]
            _evaluate(run, "site", site)
        print(f"{recipe}: done", flush=True)
    more = {name: runs.grouped for name, runs in trained.items() if name not in asked.clean}
    _print_overview(trained, more)
    _print_site(more)
    _print_corruptions(more)


def _train(folder: Path, recipe: str, base: Sequence[str], seeds: Sequence[int]) -> Runs:
    """Trains what is not there yet."""
    splits = {
        "random": [[f"seed={seed}", f"split.seed={seed}"] for seed in seeds],
        "grouped": [
            [f"seed={seed}", f"split.seed={seed}", "split=grouped", "split.groups=blocks"]
            for seed in seeds
        ],
        "folds": [
            ["split=blocked", f"split.folds={FOLDS}", f"split.fold={fold}"] for fold in range(FOLDS)
        ],
    }
    runs: dict[str, list[Path]] = {name: [] for name in splits}
    for name, variants in splits.items():
        for number, variant in enumerate(variants):
            run = folder / f"{name}-{number}"
            if not (run / "report.html").is_file():
                command = [sys.executable, "train.py", f"experiment={recipe}", *variant, *base]
                took = run_timed([*command, f"run_dir={run}"], run.with_suffix(".log")).seconds
                print(f"{recipe}, {run.name}: {took:.0f} s", flush=True)
            runs[name].append(run)
    return Runs(**runs)


def _evaluate(run: Path, name: str, settings: Sequence[str]) -> None:
    folder = run / name
    if not (folder / "metrics.json").is_file():
        ckpt = run / "checkpoints" / "best.ckpt"
        command = [sys.executable, "eval.py", f"ckpt={ckpt}", *settings, f"run_dir={folder}"]
        run_timed(command, run.with_suffix(f".{name}.log"))


def _read(file: Path, part: str) -> Row:
    """The metrics of one part."""
    metrics: Row = json.loads(file.read_text(encoding="utf-8"))[part]
    return metrics


def pool(parts: Sequence[Row]) -> Shares:
    """Shares of all images of several runs, from their metrics."""
    n = sum(part["n"] for part in parts)
    # Images that are only known to be benign have no accuracy over classes.
    right = sum(
        part["n"] * part.get("accuracy", part["at_threshold"]["malignant_specificity"])
        for part in parts
    )
    unsafe = {}
    for name in UNSAFE_SHARES:
        images = sum(part[name.replace("unsafe", "n")] for part in parts)
        unsafe[name] = sum(part[f"n_{name}"] for part in parts) / images if images else None
    referred = sum(part["n"] * part["referred"] for part in parts)
    return Shares(accuracy=right / n, referred=referred / n, n=n, **unsafe)


def _print_overview(trained: dict[str, Runs], more: dict[str, list[Path]]) -> None:
    """A row for each recipe in each condition; `more` are the runs evaluated on other images."""
    print(f"\n| images | recipe | n | {HEADER} |\n|---|---|---:|---:|---:|---:|---:|")
    for split in Runs._fields:
        for recipe, runs in trained.items():
            parts = [_read(run / "metrics.json", "test") for run in getattr(runs, split)]
            _print_row([split, recipe], pool(parts))
    for title, over, worst in (("mean", statistics.mean, statistics.mean), ("worst", min, max)):
        for recipe, grouped in more.items():
            under = [row for run in grouped for row in _corrupted(run)]
            kinds = len(under) // len(grouped)
            name = f"grouped, {title} of {kinds} corruptions"
            _print_row([name, recipe], _over_corruptions(under, over, worst))
    for recipe, grouped in more.items():
        parts = [_read(run / "site" / "metrics.json", SITE) for run in grouped]
        _print_row(["another hospital, all benign", recipe], pool(parts))


def _print_row(names: Sequence[str], shares: Shares) -> None:
    cells = [_text(value) for value in shares[:4]]
    print(f"| {' | '.join([*names, str(shares.n), *cells])} |")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _corrupted(run: Path) -> list[Row]:
    """Rows of the corruptions, without that of unchanged images."""
    with (run / "corruptions" / "robustness.csv").open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["kind"] != "none"]


def _over_corruptions(rows: Sequence[Row], over: Summary, worst: Summary) -> Shares:
    """Summarizes the rows of corruptions: accuracy by `over`, each other share by `worst`."""
    accuracy = over(float(row["accuracy"]) for row in rows)
    others = {
        name: worst(float(row[name]) for row in rows) for name in (*UNSAFE_SHARES, "referred")
    }
    return Shares(accuracy=accuracy, n=int(rows[0]["n"]), **others)


def _print_site(evaluated: dict[str, list[Path]]) -> None:
    """Why images of the other hospital are referred."""
    rows, reasons = [], set()
    for recipe, runs in evaluated.items():
        for run in runs:
            found = _read(run / "site" / "metrics.json", SITE)
            rows.append((recipe, found))
            reasons.update(found["referral_reasons"])
    names = sorted(reasons)
    print(f"\n| another hospital | n | {' | '.join(names)} |\n|---|---:|{'---:|' * len(names)}")
    for recipe, found in rows:
        shares = [found["referral_reasons"].get(name, 0) / found["n"] for name in names]
        print(f"| {recipe} | {found['n']} | {' | '.join(map(_text, shares))} |")


def _print_corruptions(evaluated: dict[str, list[Path]]) -> None:
    """For each corruption accuracy, unsafe of malignant and referral of each recipe."""
    tables = {name: [_corrupted(run) for run in runs] for name, runs in evaluated.items()}
    titles = " | ".join(f"{name}: accuracy, unsafe of malignant, referred" for name in tables)
    print(f"\n| corruption | {titles} |\n|---|{'---:|' * len(tables)}")
    shown = ("accuracy", "unsafe_malignant", "referred")
    for number, row in enumerate(next(iter(tables.values()))[0]):
        cells = []
        for runs in tables.values():
            means = [statistics.mean(float(rows[number][name]) for rows in runs) for name in shown]
            cells.append(", ".join(map(_text, means)))
        print(f"| {row['kind']} {row['strength']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
