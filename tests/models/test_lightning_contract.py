"""The model and the data module as used from a script with a plain Lightning Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from bcd.data.datamodule import SmearDataModule
from bcd.errors import ConfigError
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.models.classifier import SmearClassifier
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, eval_config, train_config

FIGURES = ("accuracy", "precision", "recall", "f1", "loss")
CNN = {"backbone": "cnn", "weights": None, "input_size": 48}
HEADS = {"linear": ("model.label_smoothing=0.1",), "svm": ("model.unfreeze=0",)}


def plain_trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return pl.Trainer(default_root_dir=folder, **{**quiet, **settings})


@pytest.fixture(scope="module", params=HEADS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp(request.param)
    words = (*SMALL, f"data.root={folder}/images", "logger=none", f"head={request.param}")
    cfg = train_config(
        folder / "run", *words, *HEADS[request.param], "model.class_weights=balanced"
    )
    result = train(cfg)
    assert result is not None
    return result


def test_a_checkpoint_gives_model_and_data_without_arguments(
    run: TrainResult, tmp_path: Path
) -> None:
    file = run.run_dir / "checkpoints" / "best.ckpt"
    model = SmearClassifier.load_from_checkpoint(file)
    data = SmearDataModule.load_from_checkpoint(file)
    trainer = plain_trainer(tmp_path)

    (tested,) = trainer.test(model, datamodule=data, verbose=False)
    again = evaluate_checkpoint(eval_config(tmp_path / "eval", f"ckpt={file}"))["test"]
    for name in FIGURES:
        assert tested[f"test/{name}"] == pytest.approx(again.metrics[name], abs=1e-6), name

    batches = trainer.predict(model, datamodule=data)
    assert batches is not None
    probabilities = torch.cat([batch for batch in batches if isinstance(batch, torch.Tensor)])
    expected = torch.tensor([prediction.probabilities for prediction in again.predictions])
    torch.testing.assert_close(probabilities.double(), expected.double(), atol=1e-5, rtol=0)
    assert model.calibration.temperature != 1

    (validated,) = trainer.validate(model, datamodule=data, verbose=False)
    last = run.classifier.history[-1]
    if "svm" in str(run.run_dir):  # of the linear head best.ckpt may be of another epoch
        assert validated["val/loss"] == pytest.approx(last["val/loss"], rel=1e-5)
    assert set(validated) == {f"val/{name}" for name in FIGURES}


def test_loading_needs_neither_pretrained_weights_nor_their_file(
    run: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcd.models.backbones import build

    file = run.run_dir / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["model"]["weights"] = str(tmp_path / "removed.pth")
    torch.save(content, tmp_path / "moved.ckpt")
    monkeypatch.setattr(build, "download_state", None)
    model = SmearClassifier.load_from_checkpoint(tmp_path / "moved.ckpt")
    for name, value in run.classifier.network.state_dict().items():
        assert (
            name in model.network.state_dict()
            and value.shape == model.network.state_dict()[name].shape
        )


@pytest.mark.parametrize("head", ["linear", "logreg"])
def test_a_plain_trainer_fits_tests_and_predicts(
    head: str, run: TrainResult, tmp_path: Path
) -> None:
    root = run.datamodule.catalog.root
    data = SmearDataModule({"root": str(root), "num_workers": 0}, {"test": 0.4}, size=48)
    model = SmearClassifier(CNN, classes=4, head={"kind": head})
    trainer = plain_trainer(tmp_path, max_epochs=2, enable_checkpointing=False)
    before = {name: value.clone() for name, value in model.network.head.state_dict().items()}

    trainer.fit(model, datamodule=data)
    after = model.network.head.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert trainer.current_epoch == (2 if head == "linear" else 0)

    (tested,) = trainer.test(model, datamodule=data, verbose=False)
    batches = trainer.predict(model, datamodule=data)
    assert batches is not None
    probabilities = torch.cat([batch for batch in batches if isinstance(batch, torch.Tensor)])
    labels = torch.tensor([data.catalog.labels[i] for i in data.split.indices("test")])
    right = probabilities.argmax(1) == labels
    assert tested["test/accuracy"] == pytest.approx(float(right.float().mean()))
    assert tested["test/loss"] == pytest.approx(
        float(-probabilities.gather(1, labels[:, None]).log().mean()), abs=1e-5
    )
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = SmearClassifier.load_from_checkpoint(tmp_path / "own.ckpt")
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_a_fitted_head_refuses_epochs(run: TrainResult, tmp_path: Path) -> None:
    root = run.datamodule.catalog.root
    data = SmearDataModule({"root": str(root), "num_workers": 0}, size=48)
    model = SmearClassifier(CNN, classes=4, head={"kind": "knn"})
    trainer = plain_trainer(tmp_path, min_epochs=2, max_epochs=2, enable_checkpointing=False)
    with pytest.raises(ConfigError, match=r"leave out trainer\.min_epochs"):
        trainer.fit(model, datamodule=data)
