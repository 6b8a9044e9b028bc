"""On real smears and ImageNet weights, where the environment names them."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import assert_same_figures, error_lines, script, train_config

from bcd.evaluation.collect import collect_answers
from bcd.training import TrainResult, train

SMEARS = os.environ.get("BCD_TEST_SMEARS", "")
WEIGHTS = os.environ.get("BCD_TEST_WEIGHTS", "")

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not (SMEARS and WEIGHTS), reason="set BCD_TEST_SMEARS and BCD_TEST_WEIGHTS"),
]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_papers_run_reaches_the_papers_figures(tmp_path: Path) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    done = script(
        "train.py",
        "experiment=paper",
        f"data.root={SMEARS}",
        f"model.weights={WEIGHTS}",
        f"hydra.run.dir={run}",
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    reported = json.loads((run / "metrics.json").read_text())["test"]
    # The least of five seeds was 0.973; the paper reports the mean.
    assert reported["accuracy"] >= 0.965
    assert min(reported[name] for name in ("precision", "recall", "f1")) >= 0.955
    assert reported["n"] == len(rows(run))
    away.mkdir()
    shutil.move(run / "checkpoints" / "best.ckpt", away / "model.ckpt")
    shutil.rmtree(run)
    again = script(
        "eval.py", "ckpt=model.ckpt", f"hydra.run.dir={tmp_path / 'eval'}", cwd=away, timeout=600
    )
    assert again.returncode == 0, error_lines(again)
    repeated = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]
    assert_same_figures(repeated, reported)


def few(folder: Path, each: int) -> Path:
    """Copies the first pictures of each class."""
    for source in sorted(p for p in Path(SMEARS).iterdir() if p.is_dir()):
        (folder / source.name).mkdir(parents=True)
        for file in sorted(source.iterdir())[:each]:
            shutil.copy(file, folder / source.name)
    return folder


# Trained blocks amplify rounding, that of another number of threads no less (measured: 0.005 in a
# logit after two epochs of SGD), and Adam's first step is the mere sign of a gradient.
@pytest.mark.parametrize(("unfreeze", "optimizer", "epochs"), [(0, "adam", 2), (4, "sgd", 1)])
def test_the_bank_changes_no_answer(
    unfreeze: int, optimizer: str, epochs: int, tmp_path: Path
) -> None:
    root = few(tmp_path / "smears", 40)

    def run(name: str) -> TrainResult:
        cfg = train_config(
            tmp_path / name,
            f"data.root={root}",
            f"model.weights={WEIGHTS}",
            f"model.unfreeze={unfreeze}",
            f"features={name}",
            f"optimizer={optimizer}",
            "optimizer.lr=1e-3",
            f"trainer.max_epochs={epochs}",
            "callbacks.progress=null",
            "+trainer.enable_progress_bar=false",
        )
        result = train(cfg)
        assert result is not None
        return result

    logits = {}
    for name in ("bank", "off"):
        result = run(name)
        network, loader = result.classifier.network, result.datamodule.plain_loader("test")
        logits[name] = collect_answers(network, loader, torch.device("cpu")).logits
    assert np.abs(logits["bank"] - logits["off"]).max() <= 0.01
    banked, plain = rows(tmp_path / "bank"), rows(tmp_path / "off")
    assert [row["path"] for row in banked] == [row["path"] for row in plain]
    assert [row["prediction"] for row in banked] == [row["prediction"] for row in plain]
