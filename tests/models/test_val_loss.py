"""The loss on val is the plain log loss, whatever training minimises and however val is batched."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch.utils.data import DataLoader, TensorDataset

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.evaluation.answers import softmax
from bcd.models.classifier import SmearClassifier
from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config
from tests.helpers.noise import write_classes

WEIGHTS = [0.2, 4.0, 1.0, 9.0]
UNEQUAL = {"Benign": 30, "Early": 12, "Pre": 12, "Pro": 12}


def classifier(weights: list[float] | None) -> SmearClassifier:
    torch.manual_seed(0)
    model = with_defaults(
        ModelConfig,
        backbone="cnn",
        weights=None,
        input_size=32,
        unfreeze="all",
        label_smoothing=0.2,
    )
    mixed = with_defaults(AugmentConfig, mixup=0.4)
    made = SmearClassifier(model, 4, class_weights=weights, augment=mixed)
    with torch.no_grad():  # so that answers differ
        made.network.head.get_parameter("weight").mul_(40)
    return made.eval()


def val_loss(made: SmearClassifier, batch: int, x: torch.Tensor, labels: torch.Tensor) -> float:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(x, labels), batch_size=batch)
    (figures,) = trainer.validate(made, loader, verbose=False)
    return figures["val/loss"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("n", [32, 21])  # the last batch is whole, or smaller
@pytest.mark.parametrize("weights", [WEIGHTS, None])
def test_it_is_the_log_loss_for_any_batch_size(n: int, weights: list[float] | None) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (n, 3, 32, 32)).astype(np.uint8))
    labels = np.sort(rng.choice(4, n, p=[0.6, 0.2, 0.1, 0.1]))  # batches of few classes
    made = classifier(weights)
    with torch.no_grad():
        logits = made(x).numpy().astype(np.float64)
    expected = log_loss(labels, softmax(logits), labels=range(4))
    given = [val_loss(made, batch, x, torch.from_numpy(labels)) for batch in (4, 16)]
    assert given == pytest.approx([expected, expected], rel=1e-5)
    weighed = np.average(
        -np.log(softmax(logits)[np.arange(n), labels]), weights=np.array(WEIGHTS)[labels]
    )
    assert abs(weighed - expected) > 0.01  # weights would have shown


@pytest.mark.parametrize(
    "objective",
    [("model.class_weights=balanced",), ("model.label_smoothing=0.2",), ("augment.mixup=0.4",), ()],
    ids=lambda words: words[0] if words else "plain",
)
def test_runs_choose_by_it_and_log_what_they_minimise_beside(
    objective: tuple[str, ...], tmp_path: Path
) -> None:
    root = write_classes(tmp_path / "in", UNEQUAL)
    small = [word for word in SMALL if not word.startswith("data=")]
    small = [word for word in small if not word.startswith("data.generate")]
    cfg = train_config(
        tmp_path / "run", *small, f"data.root={root}", "data.batch_size=5", "optimizer.lr=0.01",
        "model.dropout=0", "augment.views=1", *objective,
    )  # fmt: skip
    result = train(cfg)
    assert result is not None
    history = result.classifier.history
    losses = [epoch["val/loss"] for epoch in history]
    best = result.trainer.checkpoint_callback
    assert isinstance(best, pl.callbacks.ModelCheckpoint)
    assert float(best.best_model_score or 0) == pytest.approx(min(losses))
    assert result.metrics["val"]["loss_uncalibrated"] == pytest.approx(min(losses), rel=1e-4)
    assert [("train/objective" in epoch) for epoch in history] == [bool(objective)] * len(history)
    if objective:
        assert history[0]["train/objective"] != pytest.approx(history[0]["train/loss"], rel=1e-3)
