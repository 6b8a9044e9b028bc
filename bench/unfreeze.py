"""Seconds per epoch with the last blocks trained, with and without the feature bank.

python -m bench.unfreeze <folder of class folders> [--weights <file>] [--unfreeze 4]
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl

from bench.measure import machine, run_timed


class Clock(pl.Callback):
    """Prints how long training took in each epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock and prints the time."""
        print(f"epoch took {time.perf_counter() - self._started:.3f} s", flush=True)


def main() -> None:
    """Runs both ways in turn and prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.unfreeze", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument("--unfreeze", type=int, default=4, help="last blocks to train")
    parser.add_argument(
        "--epochs",
        type=int,
        default=3,
        help="the first one is a warm-up, unless it is the only one",
    )
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench_unfreeze_"))
    print(f"{machine()}; the last {asked.unfreeze} blocks trained; logs in {work}\n")
    print("| run | seconds per epoch (median) | whole process, seconds |")
    print("|---|---:|---:|", flush=True)
    medians = []
    for features in ("off", "bank"):
        command = [sys.executable, "train.py", "experiment=paper", f"features={features}"]
        command += [f"data.root={asked.data}", f"model.weights={asked.weights}"]
        command += [f"model.unfreeze={asked.unfreeze}", "optimizer.lr=1e-4"]
        command += [f"trainer.max_epochs={asked.epochs}", f"run_dir={work / features}"]
        command += ["+callbacks.clock._target_=bench.unfreeze.Clock", "callbacks.progress=null"]
        log = work / f"{features}.log"
        command += ["+trainer.enable_progress_bar=false"]
        timed = run_timed(command, log, {"BCD_CACHE": str(work / "cache")})
        seconds = [float(s) for s in re.findall(r"epoch took ([\d.]+)", log.read_text())]
        medians.append(statistics.median(seconds[1:] or seconds))
        print(f"| features={features} | {medians[-1]:.1f} | {timed.seconds:.1f} |", flush=True)
    print(f"\nan epoch is {medians[0] / medians[1]:.1f} times as fast with the bank")


if __name__ == "__main__":
    main()
