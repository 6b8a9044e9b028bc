"""Has Lightning write checkpoints so that a kill or a full disk leaves the one before whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import TorchCheckpointIO

from bcd.inference.checkpoint import save_content


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
