"""Stops training at the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from bcd.errors import BcdError

# Batches between two checks of the losses where a check waits for a GPU or other processes.
_INTERVAL = 16


class DivergedError(BcdError):
    """Training diverged; all processes raise it."""


class DivergenceCheck(pl.Callback):
    """Stops training at the first loss that is not finite, and keeps such weights from being saved.

    On the CPU every loss is checked. Where a check costs time, losses are collected and checked
    every few batches, and before anything is validated or saved. This callback must come after one
    that averages weights, because it checks what is saved.

    Attributes:
        batches: Number of batches that were trained on.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._losses: list[tuple[int, Tensor]] = []  # with the step of the optimizer

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Checks the loss, or collects it for later."""
        self.batches += 1
        if not isinstance(outputs, Mapping) or "loss" not in outputs:
            return
        self._losses.append((trainer.global_step, outputs["loss"]))
        quick = pl_module.device.type == "cpu" and trainer.world_size == 1
        if quick or len(self._losses) >= _INTERVAL:
            self._check(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the collected losses before validation."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the collected losses before a checkpoint is saved."""
        self._check(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the val loss before a checkpoint is saved."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not math.isfinite(loss):
            raise _diverged(trainer, f"the loss on val is {float(loss)}", trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses weights that are not finite."""
        for name, value in checkpoint["state_dict"].items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise _diverged(trainer, f"{name} is not finite", trainer.global_step)

    def _check(self, trainer: pl.Trainer) -> None:
        kept, self._losses = self._losses, []
        if not kept:
            return
        finite = torch.stack([loss.detach() for _, loss in kept]).isfinite().tolist()
        # All processes must stop together, or the others would wait for this one.
        if not trainer.strategy.reduce_boolean_decision(not all(finite), all=False):
            return
        step, loss = kept[finite.index(False)] if not all(finite) else (kept[-1][0], None)
        what = "not finite in another process" if loss is None else str(float(loss))
        raise _diverged(trainer, f"the loss is {what}", step)


def _diverged(trainer: pl.Trainer, what: str, step: int) -> DivergedError:
    """The error of a run that diverged: where, at which rate, what to try, what is kept."""
    rate, fix = "", "check the images and weights"
    if trainer.optimizers:
        rate = f", learning rate {trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        fix = (
            "try a smaller optimizer.lr (lr_find=true suggests one) or trainer.gradient_clip_val=1"
        )
        if not str(trainer.precision).startswith("32"):
            fix += " or trainer.precision=32-true"
    paths = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    kept = any(path and Path(path).is_file() for path in paths)
    left = "checkpoints of earlier epochs are kept" if kept else "no checkpoint is kept"
    where = f"epoch {trainer.current_epoch}, step {step}{rate}"
    return DivergedError(f"training diverged in {where}: {what}; {fix}; {left}")
