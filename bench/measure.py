"""Times processes and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Timed:
    """What a process took.

    Attributes:
        seconds: From start to end.
        memory: Peak in MB, of the largest process if it started others; 0 if unknown.
        processor: Seconds of all cores, also of processes that it started; 0 if unknown.
    """

    seconds: float
    memory: float
    processor: float = 0.0


def run_timed(arguments: Sequence[str], log: Path, environment: Mapping[str, str] = {}) -> Timed:
    """Runs a process from start to end.

    Args:
        arguments: Program and arguments; started in the project's folder.
        log: File for its output.
        environment: Variables added to those of this process.

    Raises:
        RuntimeError: It failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            list(arguments),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            code, memory = os.waitstatus_to_exitcode(status), usage.ru_maxrss
            memory_mb = memory / (1e6 if sys.platform == "darwin" else 1e3)
            processor = usage.ru_utime + usage.ru_stime
        else:
            code, memory_mb, processor = process.wait(), 0.0, 0.0
    if code != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}; see {log}")
    return Timed(time.perf_counter() - started, memory_mb, processor)


def machine() -> str:
    """Describes the machine in one line: processor and number of cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    return f"{model}, {os.cpu_count()} cores"


def gemm_gflops(seconds: float = 0.4) -> float:
    """Measures the speed of a float32 matrix product with side 2048, in GFLOP/s."""
    import torch

    side = 2048
    a, b = torch.rand(side, side), torch.rand(side, side)
    _ = a @ b
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        _ = a @ b
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - started) / 1e9


@dataclass(frozen=True)
class Forward:
    """Speed of the frozen network, and of a matrix product measured alternately with it."""

    images_per_second: float
    gflops: float
    peak_gflops: float

    @property
    def share(self) -> float:
        """Speed of the network relative to the matrix product."""
        return self.gflops / self.peak_gflops


def measure_forward(engine_name: str, weights: str, rounds: int = 9) -> Forward:
    """Runs the frozen MobileNetV2 as feature extraction does, on all cores, without decoding."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bcd.config.compose import with_defaults
    from bcd.config.schema import ModelConfig
    from bcd.features.engines import choose_engine, make_engine
    from bcd.models.backbones.build import build_backbone
    from bcd.models.network import SmearNetwork

    model = with_defaults(ModelConfig, weights=weights)
    size = model.input_size
    network = SmearNetwork(build_backbone(model), 4, model).eval()
    with FlopCounterMode(display=False) as counter:
        network.prefix(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    flops = counter.get_total_flops()
    device = torch.device("cpu")
    engine = make_engine(choose_engine(engine_name, device), network.prefix, size, device)
    images = np.random.default_rng(0).integers(
        0, 256, (engine.batch, size, size, 3), dtype=np.uint8
    )
    rates, peaks = [], []
    cores = torch.get_num_threads()
    with ThreadPoolExecutor(engine.threads) as pool:
        list(pool.map(engine.forward, [images] * 2 * engine.threads))
        for _ in range(rounds):  # alternately, as the speed of the machine drifts
            torch.set_num_threads(cores)
            peaks.append(gemm_gflops())
            torch.set_num_threads(1)
            calls, started = 8 * engine.threads, time.perf_counter()
            list(pool.map(engine.forward, [images] * calls))
            rates.append(calls * engine.batch / (time.perf_counter() - started))
    rate = float(np.median(rates))
    return Forward(rate, rate * flops / 1e9, float(np.median(peaks)))
