"""Compares features.engine=int8 with float32: speed, agreement of features, accuracy over seeds.

python -m bench.int8 <folder of class folders> --weights <file>

Seeds set both the split and the training. Each run starts without a feature bank; what the first
run finds out about the images is kept for the others. Engines take turns within each seed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import ROOT, machine

ENGINES = ("auto", "int8")


def main() -> None:
    """Runs both engines with each seed and prints tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.int8", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench_int8_"))
    print(f"{machine()}; runs in {work}", flush=True)
    rows = []
    for seed in asked.seeds:
        for engine in ENGINES if seed % 2 else ENGINES[::-1]:
            rows.append(_run(work, asked, engine, seed))
            print(rows[-1], flush=True)
    _tables(rows)


def _run(work: Path, asked: argparse.Namespace, engine: str, seed: int) -> dict[str, Any]:
    folder = work / f"{engine}-{seed}"
    command = [
        sys.executable, "train.py", "experiment=paper", f"data.root={asked.data}",
        f"model.weights={asked.weights}", f"seed={seed}", f"split.seed={seed}",
        f"features.engine={engine}", f"run_dir={folder}",
    ]  # fmt: skip
    cache = work / "cache"
    shutil.rmtree(cache / "features", ignore_errors=True)
    before = os.times()
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "BCD_CACHE": str(cache)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    after = os.times()
    test = json.loads((folder / "metrics.json").read_text())["test"]
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    rate = re.search(r"^Features: \d+/\d+, (\d+)/s, [\d.]+ s$", done.stderr, re.MULTILINE)
    agreement = next(iter((cache / "features").glob("*/agreement.json")), None)
    known = {} if agreement is None else json.loads(agreement.read_text())
    return {
        "seed": seed,
        "engine": engine,
        "processor s": round(spent, 1),
        "views/s": int(rate.group(1)) if rate else 0,
        "accuracy": test["accuracy"],
        "interval": test["accuracy_ci"],
        "loss": test["loss"],
        "cosine": known.get("cosine", 1.0),
        "lowest": known.get("lowest", 1.0),
    }


def _tables(rows: list[dict[str, Any]]) -> None:
    print("\n| seed | engine | processor time, s | accuracy | loss | cosine, mean (lowest) |")
    print("|---:|---|---:|---:|---:|---:|")
    for row in rows:
        low, high = row["interval"]
        print(
            f"| {row['seed']} | {row['engine']} | {row['processor s']:.0f} | "
            f"{row['accuracy']:.4f} [{low:.3f}, {high:.3f}] | {row['loss']:.4f} | "
            f"{row['cosine']:.4f} ({row['lowest']:.4f}) |"
        )
    by = {e: {r["seed"]: r for r in rows if r["engine"] == e} for e in ENGINES}
    for name in ("accuracy", "loss", "processor s"):
        change = [by["int8"][s][name] - by["auto"][s][name] for s in by["auto"]]
        spread = statistics.stdev(change) if len(change) > 1 else float("nan")
        means = [statistics.mean(r[name] for r in by[e].values()) for e in ENGINES]
        print(
            f"{name}: {means[0]:.4f} float32, {means[1]:.4f} int8, difference "
            f"{statistics.mean(change):+.4f} (standard deviation over seeds {spread:.4f})"
        )


if __name__ == "__main__":
    main()
