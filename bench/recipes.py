"""Compares recipes on the same splits, on original images and under the corruptions `brief`.

python -m bench.recipes <folder of class folders> [--weights <file>]
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.measure import machine, run_timed

RECIPES = ("paper", "best_frozen", "finetune", "robust")
Row = dict[str, float]


def main() -> None:
    """Trains each recipe on each split, evaluates corruptions, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.recipes", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split and training, together"
    )
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--work", type=Path, help="folder of the runs; existing ones are reused")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench_recipes_"))
    print(f"{machine()}; runs in {work}", flush=True)
    settings = ["split=grouped", "split.groups=blocks", f"data.root={asked.data}"]
    settings += [f"model.weights={asked.weights}", "callbacks.progress=null"]
    settings += ["+trainer.enable_progress_bar=false"]
    tables: dict[str, list[Row]] = {}
    for recipe in asked.recipes:
        for seed in asked.seeds:
            folder = work / f"{recipe}-{seed}"
            drawn = (f"seed={seed}", f"split.seed={seed}")
            row = _measure(folder, [f"experiment={recipe}", *drawn, *settings])
            tables.setdefault(recipe, []).append(row)
            told = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
            print(f"{recipe}, seed {seed}: {told}", flush=True)
    _table(tables)


def _measure(folder: Path, settings: Sequence[str]) -> Row:
    """Accuracy by corruption, and the seconds that training took."""
    corruptions = folder / "corruptions" / "robustness.csv"
    if not corruptions.is_file():
        train = [sys.executable, "train.py", *settings, f"run_dir={folder}"]
        seconds = run_timed(train, folder.with_suffix(".log")).seconds
        (folder / "seconds.txt").write_text(f"{seconds}\n")
        ckpt = folder / "checkpoints" / "best.ckpt"
        corruption = [sys.executable, "eval.py", f"ckpt={ckpt}", "corruptions=brief"]
        run_timed(
            [*corruption, f"run_dir={corruptions.parent}"], folder.with_suffix(".corruption.log")
        )
    with corruptions.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = [" ".join((row["kind"], row["strength"])).strip() for row in rows]
    found = {name: float(row["accuracy"]) for name, row in zip(names, rows, strict=True)}
    clean = found.pop("none")
    worst = min(found.values())
    seconds = float((folder / "seconds.txt").read_text())
    return {"original": clean, **found, "worst": worst, "n": int(rows[0]["n"]), "s": seconds}


def _table(tables: dict[str, list[Row]]) -> None:
    print(f"\n| | {' | '.join(tables)} |")
    print("|---|" + "---:|" * len(tables))
    for name in next(iter(tables.values()))[0]:
        cells = []
        for rows in tables.values():
            values = [row[name] for row in rows]
            mean = statistics.mean(values)
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean:.0f}" if name in ("n", "s") else f"{mean:.3f}{spread}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
