"""Every head through train, eval and predict."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bcd.config.head import FITTED_HEADS
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.inference.predict import predict
from bcd.models.classifier import SmearClassifier
from bcd.models.heads.scikit_learn import SvmHead
from bcd.training.run import TrainResult, train
from tests.helpers.harness import (
    SMALL,
    assert_same_figures,
    error_lines,
    eval_config,
    predict_config,
    script,
    train_config,
)

HEADS = ("mlp", *FITTED_HEADS)
FROZEN = ("model.unfreeze=0", "logger=none")  # random, but its features differ by colour


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads") / "images"


def run(images: Path, run_dir: Path, *overrides: str) -> TrainResult:
    cfg = train_config(run_dir, *SMALL, *FROZEN, f"data.root={images}", *overrides)
    result = train(cfg)
    assert result is not None
    return result


def head_of(file: Path) -> dict[str, torch.Tensor]:
    network, _ = load_checkpoint(file, uncalibrated=True)
    return dict(network.head.state_dict())


@pytest.mark.parametrize("head", HEADS)
def test_eval_repeats_the_run_and_predict_its_answers(
    head: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(images, tmp_path / "run", f"head={head}")
    assert capsys.readouterr().err.count("fitted on") == (head != "mlp")
    ckpt = f"ckpt={tmp_path / 'run'}"
    again = evaluate_checkpoint(eval_config(tmp_path / "eval", ckpt, "data.num_workers=0"))
    assert_same_figures(again["test"].metrics, result.metrics["test"])
    predict(predict_config(tmp_path / "out", ckpt, f"input={images}"))
    with (tmp_path / "run" / "predictions.csv").open(newline="") as stream:
        tested = {Path(row["path"]).name: row for row in csv.DictReader(stream)}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        predicted = {Path(row["path"]).name: row for row in csv.DictReader(stream)}
    assert len(tested) == result.metrics["test"]["n"]
    for name, row in tested.items():
        for column in (c for c in row if c.startswith("p_")):
            assert float(row[column]) == pytest.approx(float(predicted[name][column]), abs=2e-3)


def test_the_history_has_one_entry_of_train_and_val(images: Path, tmp_path: Path) -> None:
    result = run(images, tmp_path / "run", "head=logreg", "trainer.max_epochs=7")
    (figures,) = result.classifier.history
    parts = {f"{part}/{name}" for part in ("train", "val") for name in ("loss", "accuracy", "f1")}
    assert parts <= set(figures)
    assert figures["val/accuracy"] == pytest.approx(result.metrics["val"]["accuracy"])
    assert result.trainer.current_epoch == 0
    card = load_checkpoint(tmp_path / "run/checkpoints/best.ckpt")[1]
    assert card.val_metrics["loss"] == figures["val/loss"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "<td>epochs</td><td>none: the head is fitted once" in report
    assert "<td>views</td><td>5 of each image" in report


def test_a_head_is_fitted_on_all_different_views(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(images, tmp_path / "none", "head=knn", "augment=none", "augment.views=2")
    trained = len(result.datamodule.split.indices("train"))
    assert capsys.readouterr().err.count(f"fitted on {trained} views") == 1  # they are all the same
    assert len(head_of(tmp_path / "none/checkpoints/last.ckpt")["labels"]) == trained
    run(images, tmp_path / "two", "head=knn", "augment.views=2", "trainer.max_epochs=1")
    assert len(head_of(tmp_path / "two/checkpoints/last.ckpt")["labels"]) == 2 * trained


def test_loggers_get_the_figures_of_train_val_and_test(images: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(images, tmp_path / "run", "head=logreg", "logger=tensorboard")
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    for name in ("train/loss", "train/f1", "val/loss", "val/f1"):
        (event,) = events.Scalars(name)
        assert event.value == pytest.approx(result.classifier.history[0][name])
    assert events.Scalars("test/f1")[0].value == pytest.approx(result.metrics["test"]["f1"])


def test_an_interrupted_validation_leaves_nothing_to_resume(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SmearClassifier, "validation_step", stop)
    with pytest.raises(BcdError, match="nothing was saved yet: start again") as caught:
        run(images, tmp_path / "run", "head=svm")
    assert caught.value.status == 130


def test_the_seed_decides_what_a_forest_draws(images: Path, tmp_path: Path) -> None:
    fixed = ("head=forest", "augment=none")
    for name, seed in (("a", 0), ("c", 1)):
        run(images, tmp_path / name, *fixed, f"seed={seed}")
    a, c = (head_of(tmp_path / n / "checkpoints/last.ckpt")["threshold"] for n in "ac")
    assert a.shape != c.shape or not torch.equal(a, c)


def test_without_validation_the_head_is_fitted_as_well(images: Path, tmp_path: Path) -> None:
    result = run(images, tmp_path / "run", "head=svm", "+trainer.limit_val_batches=0")
    head = result.classifier.network.head
    assert isinstance(head, SvmHead)
    assert len(head.get_buffer("vectors"))
    assert len(np.unique(head.get_buffer("bias"))) > 1


def test_balanced_weights_reach_the_estimator(images: Path, tmp_path: Path) -> None:
    once = ("head=logreg", "augment=none")
    for name, weights in (("plain", "null"), ("balanced", "balanced")):
        run(
            images,
            tmp_path / name,
            *once,
            f"model.class_weights={weights}",
            "data.generate.count=50",
        )
    a, b = (
        head_of(tmp_path / n / "checkpoints/last.ckpt")["weight"] for n in ("plain", "balanced")
    )
    assert not torch.equal(a, b)


def test_more_than_one_process_is_an_error_in_one_line(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer.devices=2: head=svm is fitted in one process"):
        run(images, tmp_path / "run", "head=svm", "trainer.devices=2")


def test_the_command_line_fits_a_head_without_messages_of_lightning(
    images: Path, tmp_path: Path
) -> None:
    words = [*SMALL, *FROZEN, f"data.root={images}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = script("train.py", *words, "head=svm", "head.C=3", "trainer.num_sanity_val_steps=2")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "training_step" not in done.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["n"] > 0
    wrong = script("train.py", *words, "head=svm", "head.trees=3")
    assert wrong.returncode == 2
    (line,) = error_lines(wrong)
    assert "head.trees" in line
