"""Runs of the whole road, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bcd.data.splits.split import SUBSETS
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.models.classifier import SmearClassifier
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, assert_same_figures, eval_config, train_config

FROZEN = ("model=mobilenetv2", "model.weights=null", "model.input_size=48")


def run(run_dir: Path, *overrides: str) -> TrainResult:
    root = run_dir.parent / "images"
    result = train(train_config(run_dir, *SMALL, f"data.root={root}", *overrides))
    assert result is not None
    return result


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(tmp_path_factory.mktemp("small") / "run")


def tensors(result: TrainResult) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in result.classifier.network.state_dict().items()}


def test_the_run_folder_is_complete(small: TrainResult) -> None:
    expected = {"config.yaml", "run.json", "split.csv", "metrics.json", "predictions.csv"}
    expected |= {"report.html", "figures/confusion_matrix.svg", "figures/curves.svg"}
    expected |= {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert [name for name in sorted(expected) if not (small.run_dir / name).is_file()] == []
    assert len(list((small.run_dir / "checkpoints").iterdir())) == 2
    info = json.loads((small.run_dir / "run.json").read_text())
    assert {"command", "git", "versions", "data", "seconds"} <= set(info)


def test_metrics_json_agrees_with_predictions_csv(small: TrainResult) -> None:
    import csv

    metrics = json.loads((small.run_dir / "metrics.json").read_text())
    with (small.run_dir / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert metrics["test"]["n"] == len(rows)
    assert metrics["test"]["accuracy"] == pytest.approx(right / len(rows))
    assert {"val", "test"} == set(metrics)


def test_tensorboard_has_every_epoch_and_the_confusion_matrix(small: TrainResult) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(small.run_dir))
    events.Reload()
    tags = events.Tags()
    for part in ("train", "val"):
        for name in ("loss", "accuracy", "precision", "recall", "f1"):
            assert len(events.Scalars(f"{part}/{name}")) == 2
    assert events.Scalars("test/f1")[0].value == pytest.approx(small.metrics["test"]["f1"])
    assert "test/confusion" in tags["images"]


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_are_plain_data_and_describe_themselves(small: TrainResult, name: str) -> None:
    content = torch.load(small.run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
    card = content["card"]
    assert card["classes"] == ["Benign", "Early Pre-B", "Pre-B", "Pro-B"]
    assert card["classes"][card["benign"]] == "Benign"
    assert card["input_size"] == 48
    assert set(card["split"]) == set(SUBSETS[:3])
    assert set(card["val_metrics"]) >= {"loss", "accuracy", "f1"}
    if name == "best":
        assert card["policy"]["expectation"]["n"] == pytest.approx(len(card["split"]["val"]))
    assert card["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"onnxruntime", "scikit-learn", "opencv-python-headless"} <= set(card["versions"])


def test_eval_repeats_the_reported_test_metrics(
    small: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere.ckpt"
    shutil.copy(small.run_dir / "checkpoints" / "best.ckpt", moved)
    monkeypatch.chdir(tmp_path)
    cfg = eval_config(tmp_path / "eval", "ckpt=elsewhere.ckpt", "data.num_workers=0")
    again = evaluate_checkpoint(cfg)["test"].metrics
    reported = small.metrics["test"]
    assert_same_figures(again, reported)


def test_eval_of_another_folder_takes_all_and_warns_of_trained_images(
    small: TrainResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog_root = small.run_dir.parent / "images"
    other = tmp_path / "other"
    shutil.copytree(catalog_root, other)
    cfg = eval_config(
        tmp_path / "eval",
        f"ckpt={small.run_dir}",
        f"data.root={other}",
        "data.num_workers=0",
    )
    results = evaluate_checkpoint(cfg)
    assert results["all"].metrics["n"] == 48
    split = small.datamodule.split
    trained = len(split.indices("train")) + len(split.indices("val"))
    assert f"{trained} of 48 images of other were trained" in capsys.readouterr().err


def test_frozen_features_and_their_batchnorm_stay_bit_identical(tmp_path: Path) -> None:
    cfg = train_config(tmp_path / "x", *SMALL, *FROZEN, f"data.root={tmp_path / 'images'}")
    torch.manual_seed(0)
    import lightning.pytorch as pl

    pl.seed_everything(cfg.seed, verbose=False)
    before = SmearClassifier(cfg.model, 4).network.prefix.state_dict()
    assert any("running_mean" in name for name in before)
    result = run(tmp_path / "run", *FROZEN)
    after = result.classifier.network.prefix.state_dict()
    best, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", uncalibrated=True)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert torch.equal(value, best.prefix.state_dict()[name]), name


def test_unfreezing_trains_the_last_blocks_only_and_no_batchnorm_buffer(tmp_path: Path) -> None:
    result = run(tmp_path / "run", *FROZEN, "model.unfreeze=2", "trainer.max_epochs=1")
    network = result.classifier.network
    import lightning.pytorch as pl

    pl.seed_everything(0, verbose=False)
    fresh = SmearClassifier(train_config(tmp_path / "x", *SMALL, *FROZEN).model, 4).network
    begun = {**dict(fresh.prefix.blocks.named_parameters())}
    trunk = dict(network.trunk.named_parameters())
    assert {name.split(".")[0] for name in trunk} == {"17", "18"}
    assert all(not torch.equal(begun[name], value) for name, value in trunk.items())
    buffers = dict(fresh.prefix.blocks.named_buffers())
    for name, value in network.trunk.named_buffers():
        assert torch.equal(buffers[name], value), name


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    one = run(tmp_path / "zero")
    two = run(tmp_path / "two", "data.num_workers=2")
    assert one.metrics == two.metrics
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(two)[name]), name


def test_the_seed_decides_and_zero_is_one(small: TrainResult, tmp_path: Path) -> None:
    shutil.copytree(small.run_dir.parent / "images", tmp_path / "images")
    again = run(tmp_path / "again", "seed=0")
    other = run(tmp_path / "other", "seed=1")
    for name, value in tensors(small).items():
        assert torch.equal(value, tensors(again)[name]), name
    assert small.datamodule.split == again.datamodule.split == other.datamodule.split
    assert not torch.equal(tensors(again)["head.weight"], tensors(other)["head.weight"])


@pytest.mark.parametrize("unfreeze", [0, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_run_with_the_bank_and_one_without_agree(unfreeze: int, tmp_path: Path) -> None:
    common = (*FROZEN, f"model.unfreeze={unfreeze}", "optimizer.lr=0.001")
    banked = run(tmp_path / "bank", *common)
    plain = run(tmp_path / "off", *common, "features=off")
    for name, value in tensors(plain).items():
        torch.testing.assert_close(tensors(banked)[name], value, atol=1e-3, rtol=1e-3)
    assert banked.metrics["test"]["confusion"] == plain.metrics["test"]["confusion"]
    assert banked.metrics["test"]["loss"] == pytest.approx(plain.metrics["test"]["loss"], abs=1e-3)
    assert banked.datamodule.source is banked.datamodule.images
