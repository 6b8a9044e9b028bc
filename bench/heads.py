"""Compares all heads, each trained on the same splits with the same cached features.

python -m bench.heads <folder of class folders> [--weights <file>] [--set split=grouped …]
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

from bcd.config.head import FITTED_HEADS, TRAINED_HEADS
from bench.measure import machine, run_timed

FIGURES = ("accuracy", "f1", "balanced_accuracy", "loss", "ece")


def main() -> None:
    """Trains every head on every split and prints a table in Markdown, the most accurate first."""
    parser = argparse.ArgumentParser(prog="python -m bench.heads", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split and training, together"
    )
    parser.add_argument("--heads", nargs="+", default=[*TRAINED_HEADS, *FITTED_HEADS])
    parser.add_argument("--set", nargs="+", default=[], help="for train.py, such as split=grouped")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench_heads_"))
    print(f"{machine()}; runs in {work}", flush=True)
    settings = ["experiment=paper", f"data.root={asked.data}", f"model.weights={asked.weights}"]
    settings += [*asked.set, "callbacks.progress=null", "+trainer.enable_progress_bar=false"]
    tests: dict[str, list[dict[str, Any]]] = {}
    for seed in asked.seeds:
        own = [*settings, f"seed={seed}", f"split.seed={seed}"]
        _train(work / f"bank-{seed}", [*own, "head=linear"])  # fills the bank
        for head in asked.heads:
            test = _train(work / f"{head}-{seed}", [*own, f"head={head}"])
            tests.setdefault(head, []).append(test)
            print(f"{head}, seed {seed}: {test['accuracy']:.4f}", flush=True)
    _table(tests)


def _train(folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Figures of the test part, and the seconds of the whole process."""
    command = [sys.executable, "train.py", *settings, f"run_dir={folder}"]
    timed = run_timed(command, folder.with_suffix(".log"))
    test = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    return {**test, "seconds": timed.seconds}


def _table(tests: dict[str, list[dict[str, Any]]]) -> None:
    print("\n| head | accuracy | macro F1 | balanced accuracy | log loss | ECE | seconds | n |")
    print("|---|" + "---:|" * (len(FIGURES) + 2))
    order = sorted(tests, key=lambda head: -statistics.mean(t["accuracy"] for t in tests[head]))
    for head in order:
        runs = tests[head]
        columns = [[run[name] for run in runs] for name in FIGURES]
        cells = [f"{statistics.mean(c):.3f} ± {_spread(c):.3f}" for c in columns]
        seconds = statistics.median(run["seconds"] for run in runs)
        sizes = sorted({run["n"] for run in runs})
        n = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
        print(f"| {head} | {' | '.join(cells)} | {seconds:.0f} | {len(runs)} x {n} |")


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
