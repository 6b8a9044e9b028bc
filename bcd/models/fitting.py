"""The LightningModule for heads that are fitted, in the same loop as those that are trained."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.console import say
from bcd.errors import BcdError
from bcd.models.classifier import Batch, SmearClassifier
from bcd.models.heads.base import FittedHead

_ROWS = 1024  # features at a time, so that memory stays small


class FittedClassifier(SmearClassifier):
    """Gathers the features of each epoch's view, and fits the head where val is about to be asked.

    Epoch e adds view e, so more epochs mean more views to learn from; an epoch whose view was seen
    before adds nothing. The figures on train are of the epoch's own view after fitting: a head that
    remembers its images, such as k nearest neighbours, is nearly always right there.

    Args:
        model: The `model` group.
        head: The `head` group.
        classes: Number of classes.
        views: Number of different views.
        seed: Of what the head draws.
        class_weights: Where they are given the head weighs classes inversely to their numbers.
    """

    def __init__(
        self,
        model: ModelConfig,
        head: HeadConfig,
        classes: int,
        views: int,
        seed: int,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(model, classes, class_weights=class_weights, head=head)
        self._has_objective = False
        self._views = views
        self._seed = seed
        self._rows: list[Batch] = []  # features and labels of all different views so far
        self._epoch_rows: list[Batch] = []  # those of this epoch
        self._fitted_on = 0  # batches

    def configure_optimizers(self) -> None:
        """None: nothing is trained by gradient, which Lightning need not mention."""
        for said in ("`LightningModule.configure_optimizers` ret", "`training_step` returned `No"):
            warnings.filterwarnings("ignore", f".*{said}")

    def on_train_start(self) -> None:
        """Gathers again what the epochs before a resumed one gathered."""
        if not self.current_epoch:
            return
        loader = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        for epoch in range(min(self.current_epoch, self._views)):
            loader.sampler.set_epoch(epoch)
            self._rows += [self._embedded(batch) for batch in loader]
        self._fitted_on = len(self._rows)

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """Gathers a batch's features."""
        self._epoch_rows.append(self._embedded(batch))
        if self.current_epoch < self._views:
            self._rows.append(self._epoch_rows[-1])

    def on_validation_start(self) -> None:
        """Fits the head on what was gathered."""
        if not self.trainer.sanity_checking:
            self._fit()

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's figures on the train part, where the head was fitted for them."""
        rows, self._epoch_rows = self._epoch_rows, []
        self._figures_of_epoch()
        if self._fitted_on < len(self._rows):
            return
        features, labels = (torch.cat(part).to(self.device) for part in zip(*rows, strict=True))
        with torch.no_grad():
            logits = torch.cat([self.network.head(part) for part in torch.split(features, _ROWS)])
        self._seen.append((logits, labels))
        super().on_train_epoch_end()

    def on_train_end(self) -> None:
        """Fits the head where no validation came after the last views."""
        self._fit()

    @torch.no_grad()
    def _embedded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = self.network.embed(batch[0].to(self.device)).float().cpu()
        if not bool(features.isfinite().all()):
            raise BcdError(
                "features of images are not finite, so no head can be fitted on them; look at "
                "model.weights, or say trainer.precision=32-true"
            )
        return features, batch[1].cpu()

    def _fit(self) -> None:
        if self._fitted_on == len(self._rows):
            return
        head, started = self.network.head, time.perf_counter()
        assert isinstance(head, FittedHead)
        features, labels = (torch.cat(part).numpy() for part in zip(*self._rows, strict=True))
        head.fit(features, labels, self.objective.weight is not None, self._seed)
        self._fitted_on = len(self._rows)
        seconds = time.perf_counter() - started
        say(f"head={head.cfg.kind}: fitted on {len(labels)} views of images in {seconds:.1f} s")
