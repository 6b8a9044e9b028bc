"""Measures a run at growing numbers of images: seconds per additional image and peak memory.

python -m bench.scale [--counts 2500 10000 40000] [--size 64]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bcd.data.synthetic.smears import generate
from bench.measure import Timed, machine, run_timed


def main() -> None:
    """Generates the images, runs each number of them cold, and prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2500, 10000, 40000])
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=2, help="number of epochs, and of views")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument("--work", type=Path, help="folder for the generated images")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench_scale_"))
    print(f"{machine()}; {asked.size} x {asked.size} pixels; logs in {work}\n")
    print("| images | seconds | ms per additional image | peak memory, MB | relative to smallest |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    done: list[tuple[int, Timed]] = []
    for count in sorted(asked.counts):
        root = work / f"{count}_{asked.size}"
        generate(root, count=count, slides=8, size=asked.size, seed=0)
        shutil.rmtree(work / "cache", ignore_errors=True)
        timed = _run(asked, root, work)
        more = ""
        if done:
            before, shorter = done[-1]
            more = f"{1000 * (timed.seconds - shorter.seconds) / (count - before):.2f}"
        done.append((count, timed))
        share = timed.memory / max(done[0][1].memory, 1)
        row = (f"{timed.seconds:.1f}", more, f"{timed.memory:.0f}", f"{share:.2f}")
        print(f"| {count} | " + " | ".join(row) + " |", flush=True)


def _run(asked: argparse.Namespace, root: Path, work: Path) -> Timed:
    command = [sys.executable, "train.py", f"data.root={root}", f"run_dir={work / root.name}_run"]
    command += [f"model.weights={asked.weights}", f"model.input_size={asked.size}"]
    command += [f"trainer.max_epochs={asked.epochs}", "augment=paper", "data.batch_size=128"]
    return run_timed(command, work / f"{root.name}.log", {"BCD_CACHE": str(work / "cache")})


if __name__ == "__main__":
    main()
