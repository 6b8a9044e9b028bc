"""Ends training at the first loss that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from bcd.errors import BcdError

# Batches between two looks at the losses where a look has to wait for a GPU or other processes.
_APART = 16


class DivergedError(BcdError):
    """Training diverged; of several processes all raise it."""


class LossWatch(pl.Callback):
    """Ends training at the first loss that is not finite, and saves no weights that are not.

    On the CPU every batch is looked at. Where a look costs time, losses are kept and looked at
    every few batches, and before anything is validated or saved. It must follow a callback that
    averages weights, since it checks what that one saves.

    Attributes:
        batches: How many were trained on.
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
        """Checks the loss, or keeps it for later."""
        self.batches += 1
        if not isinstance(outputs, Mapping) or "loss" not in outputs:
            return  # a fitted head has none
        self._losses.append((trainer.global_step, outputs["loss"]))
        quick = pl_module.device.type == "cpu" and trainer.world_size == 1
        if quick or len(self._losses) >= _APART:
            self._look(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks what was kept before val is asked."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks what was kept before a checkpoint is saved."""
        self._look(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the loss on val before a checkpoint is saved."""
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

    def _look(self, trainer: pl.Trainer) -> None:
        kept, self._losses = self._losses, []
        if not kept:
            return
        finite = torch.stack([loss.detach() for _, loss in kept]).isfinite().tolist()
        # One process tells the others, which would wait for it otherwise.
        if not trainer.strategy.reduce_boolean_decision(not all(finite), all=False):
            return
        step, loss = kept[finite.index(False)] if not all(finite) else (kept[-1][0], None)
        what = "not finite in another process" if loss is None else str(float(loss))
        raise _diverged(trainer, f"the loss is {what}", step)


def _diverged(trainer: pl.Trainer, what: str, step: int) -> DivergedError:
    """The line for a run that diverged: where, at which rate, what to try, what is kept."""
    rate, fix = "", "look at the images and weights"
    if trainer.optimizers:
        rate = f", learning rate {trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        fix = "try a smaller optimizer.lr (lr_find=true draws which) or trainer.gradient_clip_val=1"
        if not str(trainer.precision).startswith("32"):
            fix += " or trainer.precision=32-true"
    paths = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    kept = any(path and Path(path).is_file() for path in paths)
    left = "checkpoints of earlier epochs are kept" if kept else "no checkpoint is kept"
    where = f"epoch {trainer.current_epoch}, step {step}{rate}"
    return DivergedError(f"training diverged in {where}: {what}; {fix}; {left}")
