"""Progress of training in the terminal: one line per epoch, with the figures of that epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from bcd.console import console, say

if TYPE_CHECKING:
    from rich.progress import Progress


class EpochLines(pl.callbacks.ProgressBar):
    """Prints a line at the end of each epoch and, in a terminal, shows a bar until then.

    The line is printed once the module has computed the epoch's figures. Lightning's own bars show
    those of train one epoch late, because they are updated before. In a log there are the same
    lines and no control characters. The module is a `SmearClassifier`, whose `history` has the
    figures.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._epoch: int | None = None  # whose line is due
        self._started = self._seconds = 0.0

    def enable(self) -> None:
        """Prints again."""
        self._enabled = True

    def disable(self) -> None:
        """Prints nothing; Lightning calls this in all processes but the first."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the line of the epoch before, and starts this one's bar."""
        self._end_epoch(trainer, pl_module)
        self._epoch, self._started = trainer.current_epoch, time.monotonic()
        self._show(_counted(trainer.current_epoch, trainer), self.total_train_batches)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Moves the bar."""
        self._advance()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the bar of val, which is evaluated within the epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            name = f"{_counted(trainer.current_epoch, trainer)}, val"
            self._show(name, self.total_val_batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the bar."""
        self._advance()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures the epoch, with its val."""
        self._seconds = time.monotonic() - self._started

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the line of the last epoch."""
        self._end_epoch(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints a line for a fitted head, which has no epochs and is validated afterwards."""
        history = _history(pl_module)
        if self._enabled and trainer.state.fn == "validate" and history:
            say(epoch_line("head fitted", history[-1]))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Removes the bar, so that what is printed next has a line of its own."""
        self._hide()

    def _end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._hide()
        epoch, self._epoch = self._epoch, None
        history = _history(pl_module)
        if self._enabled and epoch is not None and epoch < len(history):
            say(epoch_line(_counted(epoch, trainer), history[epoch], self._seconds))

    def _show(self, description: str, total: float) -> None:
        """Starts a bar in place of the one there is, if this is a terminal."""
        self._hide()
        shown = console()
        if not self._enabled or not shown.is_terminal:
            return
        from rich.progress import Progress

        self._bar = Progress(console=shown, transient=True)
        self._bar.add_task(description, total=total if math.isfinite(total) else None)
        self._bar.start()

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def epoch_line(name: str, figures: Mapping[str, float], seconds: float | None = None) -> str:
    """The line of an epoch, of at most 80 columns.

    Args:
        name: Of the epoch, as in `epoch 3/5`.
        figures: With `train/loss`, `train/accuracy` and the same of val; val may be missing.
        seconds: How long it took; None leaves it out.
    """
    parts = []
    for subset in ("train", "val"):
        if f"{subset}/loss" in figures:
            loss, accuracy = (figures[f"{subset}/{figure}"] for figure in ("loss", "accuracy"))
            parts.append(f"{subset} loss {_short(loss)} acc {accuracy:.3f}")
    line = f"{name}  {' | '.join(parts)}"
    return line if seconds is None else f"{line}  ({_duration(seconds)})"


def _history(pl_module: pl.LightningModule) -> list[dict[str, float]]:
    """The figures of each epoch; empty of a module that is no `SmearClassifier`."""
    history = getattr(pl_module, "history", [])
    return history if isinstance(history, list) else []


def _counted(epoch: int, trainer: pl.Trainer) -> str:
    last = trainer.max_epochs
    return f"epoch {epoch + 1}/{last}" if last is not None and last > 0 else f"epoch {epoch + 1}"


def _short(loss: float) -> str:
    if loss >= 1000:
        return f"{loss:.0e}"
    return f"{loss:.4f}" if loss < 10 else f"{loss:.2f}" if loss < 100 else f"{loss:.0f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
