"""Measures `bcd predict` with an exported model and with its checkpoint.

python -m bench.predict model=<file from bcd export> [ckpt=<its checkpoint>] images=<folder>
    [count=5000] [times=7]

Throughput is relative to the bare forward pass of onnxruntime, measured before and after on as many
threads as there are cores. The time for one image is that of the whole process, best and median.
Processor time is that of all cores and all processes.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bcd.config.environment import core_count
from bcd.data.input_views import packed_shape, views_to_read
from bcd.data.load import expand_inputs
from bcd.inference.exported import ExportedModel
from bench.measure import Timed, machine, run_timed

_BARE = "bare"


def main() -> None:
    """Measures, and prints a Markdown table."""
    asked = dict(word.split("=", 1) for word in sys.argv[1:])
    if _BARE in asked:
        _run_bare(asked[_BARE], int(asked["count"]))
        return
    count, times = int(asked.get("count", 5000)), int(asked.get("times", 7))
    models = [f"{name}={asked[name]}" for name in ("model", "ckpt") if name in asked]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _link(asked["images"], count, work / "images")
        one = min((work / "images").iterdir())
        bare = [_bare(asked["model"], count, work)]
        whole = [_predict(model, work / "images", work) for model in models]
        bare.append(_bare(asked["model"], count, work))
        single = [[_predict(model, one, work) for _ in range(times)] for model in models]
    print(f"{machine()}; {count} images\n")
    print("| | seconds | processor seconds | images/s | of the bare pass | peak memory, MB |")
    print("|---|---:|---:|---:|---:|---:|")
    least = min(timed.seconds for timed in bare)
    for name, timed in zip(("bare forward pass", *models), (bare[0], *whole), strict=True):
        seconds = least if timed is bare[0] else timed.seconds
        print(
            f"| {name} | {seconds:.1f} | {timed.processor:.1f} | {count / seconds:.0f} | "
            f"{least / seconds:.0%} | {timed.memory:.0f} |"
        )
    print("\n| one image | best, s | median, s | processor seconds | peak memory, MB |")
    print("|---|---:|---:|---:|---:|")
    for name, runs in zip(models, single, strict=True):
        print(f"| {name} | {_summary(runs)} |")


def _summary(runs: Sequence[Timed]) -> str:
    seconds = [timed.seconds for timed in runs]
    processor = statistics.median(timed.processor for timed in runs)
    memory = max(timed.memory for timed in runs)
    best, median = min(seconds), statistics.median(seconds)
    return f"{best:.2f} | {median:.2f} | {processor:.2f} | {memory:.0f}"


def _link(images: str, count: int, folder: Path) -> None:
    """Links as many images as asked for, some several times if there are fewer."""
    folder.mkdir()
    files = itertools.cycle(expand_inputs([images], "images"))
    for number, file in enumerate(itertools.islice(files, count)):
        (folder / f"{number:06d}{file.suffix}").symlink_to(file.absolute())


def _predict(model: str, images: Path, work: Path) -> Timed:
    command = [sys.executable, "-m", "bcd", "predict", model, f"input={images}", "device=cpu"]
    return run_timed([*command, f"output={work / 'rows.csv'}"], work / "predict.log")


def _bare(model: str, count: int, work: Path) -> Timed:
    """The forward pass alone; seconds are without loading the model."""
    log = work / "bare.log"
    command = [sys.executable, "-m", "bench.predict", f"{_BARE}={model}", f"count={count}"]
    timed = run_timed(command, log)
    seconds, processor = map(float, log.read_text().split())
    return Timed(seconds, timed.memory, processor)


def _run_bare(file: str, count: int) -> None:
    model = ExportedModel(file, False, "cpu")
    shape = packed_shape(views_to_read(model.facts.input_views))
    image = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    with ThreadPoolExecutor(core_count()) as pool:
        list(pool.map(model.forward, [image] * 8))
        started, processor = time.perf_counter(), time.process_time()
        list(pool.map(model.forward, [image] * count))
    print(time.perf_counter() - started, time.process_time() - processor)


if __name__ == "__main__":
    main()
