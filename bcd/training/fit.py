"""Fits the classifier: trains its epochs, or fits a head of scikit-learn's once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from bcd.data.datamodule import SmearDataModule
from bcd.errors import BcdError
from bcd.models.classifier import SmearClassifier
from bcd.models.heads.base import FittedHead
from bcd.training.divergence import DivergenceCheck
from bcd.training.interruption import InterruptCheck, interrupted
from bcd.training.resume import Resumed

Callback = TypeVar("Callback", bound=pl.Callback)


def fit(
    trainer: pl.Trainer,
    classifier: SmearClassifier,
    datamodule: SmearDataModule,
    folder: Path,
    resumed: Resumed | None,
) -> None:
    """Fits the classifier, so that every `ModelCheckpoint` keeps a checkpoint.

    Args:
        trainer: Its callbacks include a `DivergenceCheck` and an `InterruptCheck`.
        classifier: The model.
        datamodule: The images.
        folder: The run folder.
        resumed: The checkpoint to continue from; None to start.

    Raises:
        BcdError: Training was interrupted, diverged, or had no batch to train on.
    """
    with _interruptible(trainer, folder):
        file = None if resumed is None else str(resumed.file)
        trainer.fit(classifier, datamodule, ckpt_path=file)
        _check_trained(trainer, classifier, resumed)
        if isinstance(classifier.network.head, FittedHead):
            trainer.validate(classifier, datamodule, verbose=False)
            _save(trainer)


def best_checkpoint(trainer: pl.Trainer) -> Path | None:
    """The checkpoint that `callbacks.best` kept; None where none is kept."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return Path(best) if best and Path(best).is_file() else None


def _save(trainer: pl.Trainer) -> None:
    """Saves a fitted head where checkpoints are kept, as no epoch's end did."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            file = callback.format_checkpoint_name(dict(trainer.callback_metrics))
            trainer.save_checkpoint(file)
            callback.best_model_path = file


@contextlib.contextmanager
def _interruptible(trainer: pl.Trainer, folder: Path) -> Iterator[None]:
    """Turns an interruption into an error that says how to continue."""
    check = _callback(trainer, InterruptCheck)
    try:
        with check.installed():
            yield
    except SystemExit:  # how Lightning ends when it is interrupted
        if not trainer.interrupted:
            raise
    if trainer.interrupted or check.asked:
        raise interrupted(folder)


def _check_trained(
    trainer: pl.Trainer, classifier: SmearClassifier, resumed: Resumed | None
) -> None:
    check = _callback(trainer, DivergenceCheck)
    if not (trainer.interrupted or check.batches or classifier.history or resumed):
        raise BcdError(
            "nothing was trained: trainer.max_epochs, max_steps, max_time and limit_train_batches "
            "leave no batch"
        )


def _callback(trainer: pl.Trainer, kind: type[Callback]) -> Callback:
    return next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]
