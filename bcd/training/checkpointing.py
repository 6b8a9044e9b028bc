"""How checkpoints are written: with a card, and atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins import TorchCheckpointIO

from bcd.inference.checkpoint import Card, save_content


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints to a file in the same folder and renames it, which is atomic.

    Lightning writes to the temporary folder and moves the file. Where that folder is on another
    disk, moving is copying, and an interruption leaves half a `best.ckpt` in place of a good one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint; `storage_options` are for remote disks and must be None."""
        if storage_options is not None:
            raise TypeError("storage_options: checkpoints are written to local folders only")
        save_content(checkpoint, Path(path))


class CardWriter(pl.Callback):
    """Adds the card to every checkpoint."""

    def __init__(self, card: Card) -> None:
        self._plain = card.to_dict()  # once: it lists every image and is saved twice per epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the card with the current val figures."""
        scores = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        checkpoint["card"] = {**self._plain, "val_metrics": scores}
