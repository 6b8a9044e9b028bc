"""Evaluates recipes on cells of healthy people from another hospital, beside their own test set.

python -m bench.external <folder of class folders> <folder of cells> [--weights <file>]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure import machine, run_timed

Metrics = dict[str, Any]
SITE = "cells"
# Titles of the columns and the names of metrics in metrics.json.
SHOWN = {
    "specificity": "at_threshold.malignant_specificity",
    "unsafe, of benign": "unsafe_benign",
    "referred": "referred",
    "low confidence": "referral_reasons.low confidence",
    "out of distribution": "referral_reasons.out of distribution",
    "threshold disagrees": "referral_reasons.threshold disagrees",
}


def main() -> None:
    """Trains each recipe with each seed, evaluates it, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.external", description=__doc__)
    parser.add_argument("data", help="folder of class folders, to train and test on")
    parser.add_argument("cells", help="folder of class folders, all of them benign")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split and training, together"
    )
    parser.add_argument("--recipes", nargs="+", default=["paper"])
    parser.add_argument("--work", type=Path, help="folder of the runs; existing ones are reused")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench_external_"))
    print(f"{machine()}; runs in {work}", flush=True)
    settings = [f"data.root={asked.data}", f"model.weights={asked.weights}"]
    rows = []
    for recipe in asked.recipes:
        found = []
        for seed in asked.seeds:
            folder = work / f"{recipe}-{seed}"
            drawn = [f"experiment={recipe}", f"seed={seed}", f"split.seed={seed}"]
            found.append(_measure(folder, [*drawn, *settings], asked.cells))
            print(f"{recipe}, seed {seed}: {_cells([found[-1][SITE]])}", flush=True)
        for name, title in (("test", "own test set"), (SITE, "other hospital")):
            rows.append([recipe, title, *_cells([metrics[name] for metrics in found])])
    print(f"\n| recipe | images | n | {' | '.join(SHOWN)} |\n|---|---|{'---:|' * (len(SHOWN) + 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _measure(folder: Path, settings: Sequence[str], cells: str) -> dict[str, Metrics]:
    """Metrics of the own test set and of the other site."""
    ckpt, metrics = folder / "checkpoints" / "best.ckpt", folder / "external" / "metrics.json"
    quiet = ["callbacks.progress=null", "+trainer.enable_progress_bar=false"]
    if not (folder / "report.html").is_file():
        train = [sys.executable, "train.py", *settings, *quiet, f"run_dir={folder}"]
        run_timed(train, folder.with_suffix(".log"))
    if not metrics.is_file():
        site = [f"+sites.{SITE}.root={cells}", f"+sites.{SITE}.map=benign"]
        command = [sys.executable, "eval.py", f"ckpt={ckpt}", *site, f"run_dir={metrics.parent}"]
        run_timed(command, folder.with_suffix(".external.log"))
    read: dict[str, Metrics] = json.loads(metrics.read_text(encoding="utf-8"))
    return read


def _cells(found: Sequence[Metrics]) -> list[str]:
    """Number of images, and mean ± sd over runs of each column; the interval of a single run."""
    cells = ["/".join(sorted({str(metrics["n"]) for metrics in found}))]
    for name in SHOWN.values():
        outer, _, inner = name.partition(".")
        inside = [metrics[outer] if inner else metrics for metrics in found]
        if outer == "referral_reasons":
            values = [m.get(inner, 0) / all_["n"] for m, all_ in zip(inside, found, strict=True)]
        else:
            values = [metrics[inner or outer] for metrics in inside]
        text = f"{statistics.mean(values):.3f}"
        if len(values) > 1:
            text += f" ± {statistics.stdev(values):.3f}"
        elif interval := inside[0].get(f"{inner or outer}_ci"):
            text += " [{:.3f}, {:.3f}]".format(*interval)
        cells.append(text)
    return cells


if __name__ == "__main__":
    main()
