"""Learning rate range test: plots the loss against the learning rate (`lr_find=true`)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from bcd.config.check import instantiate
from bcd.console import say
from bcd.data.datamodule import SmearDataModule
from bcd.errors import BcdError
from bcd.models.classifier import SmearClassifier
from bcd.reporting.figures import add_axes, new_figure
from bcd.reporting.svg import save_svg
from bcd.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 120
_MEMORY = 0.9  # share of the smoothed loss that the next step keeps
_REACH = 8  # steps before and after, between which the slope of the loss is measured
_LOST = 4.0  # times the lowest loss, at which the search stops


class RangeTest(pl.Callback):
    """Raises the learning rate evenly on a log scale while training, and records the loss.

    The rate is that of the head; each block keeps its share of it. Lightning's own finder gives all
    groups the same rate, ends with `max_epochs` and suggests the steepest slope on a linear scale,
    which is nearly always at the lowest rates.

    Attributes:
        rates: Learning rate of the head at each step.
        losses: Smoothed loss at each step.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._shares: list[float] = []
        self._mean = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the share of the head's rate that each group has."""
        groups = trainer.optimizers[0].param_groups
        self._shares = [group["lr"] / groups[0]["lr"] for group in groups]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the rate."""
        rate = LOWEST * (HIGHEST / LOWEST) ** (trainer.global_step / (STEPS - 1))
        for group, share in zip(trainer.optimizers[0].param_groups, self._shares, strict=True):
            group["lr"] = rate * share
        if trainer.global_step == len(self.rates):
            self.rates.append(rate)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Records the loss, and stops when it diverges; of accumulated batches it uses the last."""
        if trainer.global_step == len(self.losses):
            return
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * loss
        self.losses.append(self._mean / (1 - _MEMORY ** (len(self.losses) + 1)))
        trainer.should_stop = not self.losses[-1] < _LOST * min(self.losses)

    def steepest(self) -> float:
        """The rate at which the loss decreases fastest, on a log scale.

        Raises:
            BcdError: It decreases nowhere.
        """
        losses = np.nan_to_num(np.array(self.losses), nan=np.inf)
        # Between steps far apart, because single batches are easy or hard by chance.
        falls = losses[2 * _REACH :] - losses[: -2 * _REACH]
        falls[:_REACH] = 0  # the first means are of few batches
        if not len(falls) or falls.min() >= 0:
            raise BcdError(
                "lr_find: the loss did not decrease at any learning rate; check images and weights"
            )
        return self.rates[int(np.argmin(falls)) + _REACH]


def epochs_of_search(images: int, batch_size: int, trainer: Mapping[str, Any]) -> int:
    """The largest number of epochs that the search takes.

    Args:
        images: Number of images of the train set.
        batch_size: Images per batch.
        trainer: The `trainer` group.
    """
    accumulated = int(trainer.get("accumulate_grad_batches", 1))
    return math.ceil(STEPS * accumulated / math.ceil(images / batch_size)) + 1


def find_learning_rate(
    trainer: Mapping[str, Any],
    classifier: SmearClassifier,
    datamodule: SmearDataModule,
    folder: Path,
) -> None:
    """Trains for a few steps while the learning rate rises, and discards the weights.

    Writes `learning_rate.csv` and `figures/learning_rate.svg`, and prints the rate at which the
    loss decreases fastest.

    Args:
        trainer: The `trainer` group; the number of steps is the search's own.
        classifier: The model, which is trained.
        datamodule: Gives the train set.
        folder: The run folder.

    Raises:
        BcdError: The loss does not decrease at any rate.
    """
    test = RangeTest()
    settings = {"max_epochs": -1, "max_steps": STEPS, "limit_val_batches": 0, "logger": False}
    settings |= {"enable_checkpointing": False, "enable_progress_bar": False}
    searcher = instantiate({**trainer, **settings}, callbacks=[test])
    searcher.fit(classifier, datamodule)
    if not searcher.is_global_zero:
        return
    best = test.steepest()
    table = io.StringIO()
    rows = list(zip(test.rates, test.losses, strict=False))  # the last may lack its loss
    csv.writer(table).writerows([("lr", "loss"), *rows])
    write_text(folder / "learning_rate.csv", table.getvalue())
    save_svg(_draw(rows, best), folder / "figures" / "learning_rate.svg")
    say(f"the loss decreases fastest at optimizer.lr={best:.1e}; a higher rate is rarely better")
    say(f"curve: {folder / 'figures' / 'learning_rate.svg'}")


def _draw(rows: list[tuple[float, float]], best: float) -> Figure:
    figure = new_figure(6, 3.6, (0.7, 0.5, 0.2, 0.35))
    axes = add_axes(figure)
    axes.plot(*zip(*rows, strict=True))
    axes.axvline(best, color="C1", linestyle="--", label=f"steepest at {best:.1e}")
    axes.set(xscale="log", xlabel="learning rate of the head", ylabel="loss, smoothed")
    axes.set_title(f"train, {len(rows)} steps")
    axes.legend(frameon=False)
    return figure
