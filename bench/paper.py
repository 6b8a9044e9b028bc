"""Times the paper's run in several implementations, from process start to test figures.

python -m bench.paper <folder of class folders> [--weights <file>]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import Timed, machine, measure_forward, run_timed

Runs = dict[str, Callable[[], Timed]]


def main() -> None:
    """Runs each implementation and prints a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description=__doc__)
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--weights", default="imagenet", help="ImageNet weights of MobileNetV2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--keras", metavar="PYTHON", help="an interpreter that has TensorFlow")
    parser.add_argument("--engine", default="auto", help="as features.engine")
    parser.add_argument(
        "--no-plain", action="store_true", help="leave out the slow implementations"
    )
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench_paper_"))
    print(f"{machine()}; logs in {work}", flush=True)
    forward = measure_forward(asked.engine, asked.weights)
    print(
        f"forward: {forward.images_per_second:.0f} images/s = {forward.gflops:.0f} GFLOP/s, "
        f"{forward.share:.0%} of the {forward.peak_gflops:.0f} GFLOP/s of a float32 GEMM\n",
        flush=True,
    )
    times: dict[str, Timed] = {}
    for name, run in _implementations(asked, work).items():
        times[name] = run()
        print(f"{name}: {times[name].seconds:.1f} s", flush=True)
    _table(times, work)
    shutil.rmtree(work / "cache")


def _implementations(asked: argparse.Namespace, work: Path) -> Runs:
    settings = [
        "experiment=paper",
        f"data.root={asked.data}",
        f"model.weights={asked.weights}",
        f"trainer.max_epochs={asked.epochs}",
        f"augment.views={asked.epochs}",
        f"features.engine={asked.engine}",
    ]

    def ours(name: str, *more: str) -> Callable[[], Timed]:
        command = [sys.executable, "train.py", *settings, f"run_dir={work / name}", *more]
        return lambda: run_timed(command, work / f"{name}.log", {"BCD_CACHE": str(work / "cache")})

    plain = [sys.executable, "-m", "bench.plain_loop", asked.data, str(work / "plain")]
    plain += ["--epochs", str(asked.epochs)]
    if asked.weights != "imagenet":
        plain += ["--weights", asked.weights]
    runs: Runs = {}
    if not asked.no_plain:
        runs["plain Lightning loop"] = lambda: run_timed(plain, work / "plain.log")
    if asked.keras:
        keras = [asked.keras, "bench/keras_loop.py", asked.data, "--epochs", str(asked.epochs)]
        runs["Keras"] = lambda: run_timed(keras, work / "keras.log")
    if not asked.no_plain:
        runs["bcd, features=off"] = ours("off", "features=off")
    # The first run of bcd fills the cache; it is removed so that the cold run starts cold.
    runs["bcd, cache cold"] = lambda: _without_cache(work / "cache", ours("cold"))
    runs["bcd, cache warm"] = ours("warm")
    int8 = ours("int8", "features.engine=int8")
    runs["bcd, cache cold, int8"] = lambda: _without_cache(work / "cache", int8)
    return runs


def _without_cache(cache: Path, run: Callable[[], Timed]) -> Timed:
    shutil.rmtree(cache, ignore_errors=True)
    return run()


def _table(times: dict[str, Timed], work: Path) -> None:
    first = next(iter(times.values())).seconds
    print(f"\n| run | seconds | {next(iter(times))} = 1 | peak memory, MB | test accuracy |")
    print("|---|---:|---:|---:|---:|")
    for name, timed in times.items():
        file = work / name.split()[-1].replace("features=", "") / "metrics.json"
        accuracy = ""
        if file.is_file():
            accuracy = f"{json.loads(file.read_text())['test']['accuracy']:.4f}"
        print(
            f"| {name} | {timed.seconds:.1f} | {first / timed.seconds:.1f} | "
            f"{timed.memory:.0f} | {accuracy} |"
        )


if __name__ == "__main__":
    main()
