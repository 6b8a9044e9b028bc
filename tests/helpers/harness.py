"""Runs the project as a user does, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bcd.config.check import Schema, check_config
from bcd.config.programs import AuditConfig, EvalConfig, PredictConfig
from bcd.config.training import TrainConfig
from bcd.evaluation.predictions import Prediction
from tests.helpers.forking import CAN_FORK, run_forked

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"

# What makes a run small: a tiny network from scratch on few drawn images, two epochs.
SMALL = (
    "data=generated",
    "data.generate.count=48",
    "data.generate.size=48",
    "data.generate.slides=4",
    "data.num_workers=0",
    "model=cnn",
    "model.input_size=48",
    "augment=paper",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "callbacks.progress=null",
    "+trainer.enable_progress_bar=false",
)


def configure(schema: type[Schema], name: str, run_dir: Path, overrides: Sequence[str]) -> Schema:
    """Composes and checks a configuration without Hydra's main."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, overrides=[f"run_dir={run_dir}", *overrides])
    return check_config(cfg, schema)


def train_config(run_dir: Path, *overrides: str) -> TrainConfig:
    return configure(TrainConfig, "train", run_dir, overrides)


def eval_config(run_dir: Path, *overrides: str) -> EvalConfig:
    return configure(EvalConfig, "eval", run_dir, overrides)


def audit_config(run_dir: Path, *overrides: str) -> AuditConfig:
    return configure(AuditConfig, "audit", run_dir, overrides)


def predict_config(run_dir: Path, *overrides: str) -> PredictConfig:
    return configure(PredictConfig, "predict", run_dir, overrides)


def predicted(cfg: PredictConfig) -> list[Prediction]:
    """Runs predict and returns what it said of each file."""
    from bcd.inference.predict import predict

    said: list[Prediction] = []
    predict(cfg, said.append)
    return said


def script(
    name: str,
    *arguments: str,
    cwd: Path = ROOT,
    timeout: float = 300,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs train.py, eval.py or predict.py with the real command line.

    The process is forked from one that has imported torch; see `forking` and `fresh`.
    """
    return _started([str(ROOT / name), *arguments], cwd, timeout, prepare)


def verb(name: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs `bcd name` in the repository with the real command line, forked as above."""
    return _started(["-m", "bcd", name, *arguments], ROOT, timeout, None)


def fresh(name: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a script in an interpreter of its own, for tests in which starting it is the point."""
    return _interpreted([str(ROOT / name), *arguments], ROOT, timeout)


def _started(
    words: Sequence[str], cwd: Path, timeout: float, prepare: Callable[[], None] | None
) -> subprocess.CompletedProcess[str]:
    if CAN_FORK:
        return run_forked(words, cwd, _environment(), timeout, prepare)
    if prepare is not None:
        pytest.skip("rights and limits are those of Linux")
    return _interpreted(words, cwd, timeout)


def _interpreted(
    words: Sequence[str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a failed program said after its ordinary progress lines."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def warnings(told: str) -> list[str]:
    """The warnings in what a program said."""
    return [line for line in told.splitlines() if line.startswith("warning: ")]


def assert_same_figures(given: object, expected: object, where: str = "") -> None:
    """Asserts that figures out of `metrics.json`, however nested, are equal to 1e-6."""
    if isinstance(expected, dict):
        assert isinstance(given, dict), where
        assert given.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_same_figures(given[name], value, f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert isinstance(given, list | tuple), where
        assert len(given) == len(expected), where
        for number, value in enumerate(expected):
            assert_same_figures(given[number], value, f"{where}.{number}")
    elif isinstance(expected, float):
        assert isinstance(given, float), where
        assert abs(given - expected) <= 1e-6, where
    else:
        assert given == expected, where
