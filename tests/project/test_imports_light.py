"""What can be imported where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.harness import ROOT

LIGHT = [
    "bcd", "bcd.__main__", "bcd.errors", "bcd.console", "bcd.storage", "bcd.run_folder",
    "bcd.cli.app", "bcd.cli.help", "bcd.cli.overrides", "bcd.cli.paths",
    "bcd.config.check", "bcd.config.compose", "bcd.config.programs", "bcd.config.training",
    "bcd.inference", "bcd.commands.predict", "bcd.commands.slide", "bcd.commands.train",
    # White cells are found in forked and spawned processes.
    "bcd.commands.cells", "bcd.data.cells.run",
    # A predictor of an exported model.
    "bcd.inference.exported", "bcd.inference.predict", "bcd.inference.predictor",
    "bcd.evaluation.decision", "bcd.evaluation.ood", "bcd.evaluation.thresholds",
]  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_a_module_needs_neither_torch_nor_lightning(module: str) -> None:
    program = (
        "import sys; from importlib import import_module;"
        "blocked = ('torch', 'torchvision', 'lightning', 'torchmetrics', 'timm');"
        "sys.modules.update(dict.fromkeys(blocked));"
        "import_module(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, module], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_predictions_are_decided_without_torch() -> None:
    """A decision policy answers logits and features, as an exported model's predictor will."""
    program = (
        "import sys; sys.modules['torch'] = None;"
        "import numpy as np;"
        "from bcd.evaluation.decision import DecisionPolicy;"
        "policy = DecisionPolicy(2.0);"
        "decisions = policy.answer(np.array([[0.0, 2.0]]), np.zeros((1, 3)));"
        "print(decisions.prediction(0, 'a.png').probabilities[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(1 / (1 + 2.718281828459045**-1))
