"""Draws the loss against the learning rate, to choose one by (`python train.py lr_find=true`)."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from bcd.config.check import instantiate
from bcd.config.training import TrainConfig
from bcd.console import say
from bcd.data.datamodule import SmearDataModule
from bcd.errors import BcdError
from bcd.models.classifier import SmearClassifier
from bcd.reporting.figures import new_figure, save_figure
from bcd.storage import write_text
from bcd.training.finalize import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 120
_MEMORY = 0.9  # share of the smoothed loss that the next step keeps
_REACH = 8  # steps to either side between which the loss is seen to fall
_LOST = 4.0  # times the lowest loss, where there is nothing more to see


class RangeTest(pl.Callback):
    """Raises the learning rate evenly on a log scale while training, and notes the loss.

    The rate is that of the head; each block keeps its share of it. Lightning's own finder gives all
    groups one rate, ends with `max_epochs` and looks for the steepest fall on a linear scale, which
    is nearly always at the lowest rates.

    Attributes:
        rates: Of the head, one a step.
        losses: Smoothed, one a step.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._shares: list[float] = []
        self._mean = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes what share of the head's rate each group has."""
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
        """Notes the loss, and stops where it is lost; of batches added up it takes the last."""
        if trainer.global_step == len(self.losses):
            return
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * loss
        self.losses.append(self._mean / (1 - _MEMORY ** (len(self.losses) + 1)))
        trainer.should_stop = not self.losses[-1] < _LOST * min(self.losses)

    def steepest(self) -> float:
        """The rate at which the loss falls fastest, on a log scale.

        Raises:
            BcdError: It falls nowhere.
        """
        losses = np.nan_to_num(np.array(self.losses), nan=np.inf)
        # From a step before to one after, far apart: single batches are easy or hard by chance.
        falls = losses[2 * _REACH :] - losses[: -2 * _REACH]
        falls[:_REACH] = 0  # the first means are of few batches
        if not len(falls) or falls.min() >= 0:
            raise BcdError("lr_find: the loss falls at no rate; look at the images and weights")
        return self.rates[int(np.argmin(falls)) + _REACH]


def epochs_of_search(run: Run) -> int:
    """How many epochs the steps take at most; each may ask for another view of the images."""
    batches = math.ceil(len(run.split.indices("train")) / run.cfg.data.batch_size)
    together = int(run.cfg.trainer.get("accumulate_grad_batches", 1))
    return math.ceil(STEPS * together / batches) + 1


def find_learning_rate(
    cfg: TrainConfig, classifier: SmearClassifier, datamodule: SmearDataModule, folder: Path
) -> None:
    """Trains for a few steps while the learning rate rises, and throws the weights away.

    Writes `learning_rate.csv` and `figures/learning_rate.png`, and says where the loss falls
    fastest.

    Args:
        cfg: The configuration; of the trainer the number of steps is its own.
        classifier: Is trained.
        datamodule: Gives the train part.
        folder: Where the results go.

    Raises:
        BcdError: The loss falls nowhere.
    """
    test = RangeTest()
    settings = {"max_epochs": -1, "max_steps": STEPS, "limit_val_batches": 0, "logger": False}
    settings |= {"enable_checkpointing": False, "enable_progress_bar": False}
    trainer = instantiate({**cfg.trainer, **settings}, callbacks=[test])
    trainer.fit(classifier, datamodule)
    if not trainer.is_global_zero:
        return
    best = test.steepest()
    table = io.StringIO()
    rows = list(zip(test.rates, test.losses, strict=False))  # the last may lack its loss
    csv.writer(table).writerows([("lr", "loss"), *rows])
    write_text(folder / "learning_rate.csv", table.getvalue())
    save_figure(_draw(rows, best), folder / "figures" / "learning_rate.png")
    say(f"the loss falls fastest at optimizer.lr={best:.1e}; more is seldom better")
    say(f"curve: {folder / 'figures' / 'learning_rate.png'}")


def _draw(rows: list[tuple[float, float]], best: float) -> Figure:
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    axes.plot(*zip(*rows, strict=True))
    axes.axvline(best, color="tab:red", linestyle="--", label=f"falls fastest at {best:.1e}")
    axes.set(xscale="log", xlabel="learning rate of the head", ylabel="loss, smoothed")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
