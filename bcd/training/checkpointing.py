"""How Lightning writes checkpoints: with a card, and whole whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins import TorchCheckpointIO

from bcd.inference.checkpoint import Card, save_content


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written in one move within their folder.

    Lightning writes to the temporary folder and moves from there. Where that is on another disk,
    as often, moving is copying, and half a `best.ckpt` replaces the good one if it is cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint; `storage_options` are for disks elsewhere, and must be None."""
        if storage_options is not None:
            raise TypeError("storage_options: checkpoints are written to folders of this machine")
        save_content(checkpoint, Path(path))


class CardWriter(pl.Callback):
    """Puts the card into every checkpoint."""

    def __init__(self, card: Card) -> None:
        self._plain = card.to_dict()  # once: it lists every image, and is saved twice an epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the card with the val figures of the moment."""
        scores = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        checkpoint["card"] = {**self._plain, "val_metrics": scores}
