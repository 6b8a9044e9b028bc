"""Ends training between two batches when the user presses Ctrl-C, and says how to continue."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from bcd.cli.overrides import LAST
from bcd.errors import BcdError


def interrupted(folder: Path) -> BcdError:
    """The error for an interrupted run, which says how to continue with its folder."""
    resume = f"continue with {shlex.quote(f'resume={folder}')}"
    fix = resume if (folder / LAST).is_file() else "nothing was saved yet: start again"
    return BcdError(f"interrupted: {fix}", 130)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C before or after the epochs of a run into that error."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise interrupted(folder) from error


class InterruptCheck(pl.Callback):
    """Ends training between two batches when the process receives SIGINT.

    Python raises `KeyboardInterrupt` wherever the program happens to be. In the middle of a write
    to TensorBoard's queue, a lock stays held or the queue's count is wrong, and Lightning waits
    forever when it closes the loggers. A second SIGINT raises at once, for a batch that takes too
    long.

    Attributes:
        asked: Whether SIGINT was received.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handles SIGINT within the block, unless another handler is set or it is ignored."""
        before = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        if not main or before is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends training if SIGINT was received."""
        self._check()

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ends training if SIGINT was received."""
        self._check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.default_int_handler(number, frame)
        self.asked = True

    def _check(self) -> None:
        if self.asked:
            raise KeyboardInterrupt
