"""The LightningModule: trains the network and logs how it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.models.backbones.build import build_backbone
from bcd.models.data_parallel import Share, SharedBatchNorm, SharedDropout, share_norms, weighed
from bcd.models.finetuning import Mixer, learning_rate, parameter_groups
from bcd.models.network import SmearNetwork, freeze_statistics

Batch = tuple[Tensor, Tensor]


class SmearClassifier(pl.LightningModule):
    """Classifies smears: cross-entropy on the logits of a `SmearNetwork`.

    `train/loss` and `val/loss` are the plain log loss, the mean over images, whatever the batches
    are. What training minimises may be another: `train/objective`, with class weights, smoothed
    labels and mixed samples, is logged beside it where it is.

    Args:
        model: The `model` group.
        classes: Number of classes.
        optimizer: `_target_` of an optimizer and its arguments, without the parameters.
        scheduler: `_target_` of a learning-rate scheduler and its arguments, without the
            optimizer; empty for a constant rate.
        class_weights: Weight of each class in the loss, None for equal ones.
        augment: The `augment` group, for how training samples are mixed; None for not at all.
        head: The `head` group; None for a linear head.
    """

    def __init__(
        self,
        model: ModelConfig,
        classes: int,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        class_weights: Sequence[float] | None = None,
        augment: AugmentConfig | None = None,
        head: HeadConfig | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self.network = SmearNetwork(build_backbone(model), classes, model, head)
        self._optimizer = optimizer
        self._scheduler = scheduler
        weight = None if class_weights is None else torch.tensor(class_weights)
        self.objective = nn.CrossEntropyLoss(weight=weight, label_smoothing=model.label_smoothing)
        augment = augment or with_defaults(AugmentConfig)
        self._mix = Mixer(augment, classes)
        self._has_objective = bool(
            class_weights or model.label_smoothing or augment.mixup or augment.cutmix
        )
        scores = epoch_scores(classes)
        self.train_scores = scores.clone(prefix="train/")
        self.val_scores = scores.clone(prefix="val/")
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.train_objective = MeanMetric()
        self._share: Share | None = None  # of several processes
        self._seen: list[Batch] = []  # logits and labels of the epoch's training batches
        # One dict of figures an epoch.
        self.history: list[dict[str, float]] = []
        self._chance: dict[str, Tensor] = {}  # states of random generators to go on from

    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to logits (N, classes)."""
        logits: Tensor = self.network(x)
        return logits

    def on_train_start(self) -> None:
        """Has BatchNorms that are trained see the batches of all processes together."""
        if self.trainer.world_size > 1 and self._model.batchnorm == "trained":
            share_norms(self.network.trunk)

    def on_train_epoch_start(self) -> None:
        """Puts every part into its mode; Lightning no longer does so before each epoch."""
        self.network.train()
        if self.current_epoch < self._model.unfreeze_from:
            freeze_statistics(self.network.trunk)
        self._go_on_by_chance()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Of several processes, each learns what of the whole batch it has."""
        trainer: Any = self.trainer
        if trainer.world_size == 1:
            return
        rows = trainer.datamodule.rows(batch_idx)
        self._share = Share(trainer.global_rank, trainer.world_size, rows)
        for module in self.network.modules():
            if isinstance(module, SharedDropout | SharedBatchNorm):
                module.share = self._share

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, with smoothed labels and mixed samples where these are asked for."""
        x, labels = self._mix(self.network.prefix(batch[0]), batch[1])
        logits = self.network.answer(x)
        loss: Tensor = self.objective(logits, labels)
        share, count = self._share, len(logits)
        if share is not None:
            count = share.count  # a stand-in is none
        weight = self._weight(labels)
        self.train_objective.update(loss.detach(), weight=weight if count else 0)
        # Of mixed samples the class that most of it is.
        hard = labels.argmax(1) if labels.ndim == 2 else labels
        self._seen.append((logits.detach()[:count], hard[:count]))
        return loss if share is None else weighed(loss, weight, share)

    def _weight(self, labels: Tensor) -> Tensor | float:
        """By what the mean loss of samples is to be weighed beside that of others."""
        weights = self.objective.weight
        # torch divides by the weights of the classes where a sample is of one class.
        return len(labels) if weights is None or labels.ndim == 2 else weights[labels].sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leaves the backbone as it is in the epochs that are for the head alone."""
        # Without gradients an optimizer skips them; to freeze them would upset a distributed run.
        if self.current_epoch < self._model.unfreeze_from:
            for parameter in self.network.trunk.parameters():
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's figures on the train part, as seen while it was being trained."""
        # All at once: an update for every batch takes as long as training a head on it.
        logits, labels = (torch.cat(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        self.train_scores.update(logits, labels)
        self.train_loss.update(log_losses(logits, labels))
        self._log_epoch("train", self.train_loss, self.train_scores)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Gathers the figures of a batch."""
        logits = self(batch[0])
        self.val_loss.update(log_losses(logits, batch[1]))
        self.val_scores.update(logits, batch[1])

    def on_validation_epoch_end(self) -> None:
        """Logs the epoch's figures on the val part; those of the sanity check are thrown away."""
        if self.trainer.sanity_checking:
            self.val_loss.reset()
            self.val_scores.reset()
            return
        self._log_epoch("val", self.val_loss, self.val_scores)

    def _log_epoch(self, part: str, loss: MeanMetric, scores: MetricCollection) -> None:
        values = {f"{part}/loss": loss.compute(), **scores.compute()}
        if part == "train" and self._has_objective:
            values["train/objective"] = self.train_objective.compute()
            self.train_objective.reset()
        # They are those of all processes already; so Lightning need not warn of it.
        self.log_dict(values, sync_dist=True)
        bar = {f"{part} {name}": values[f"{part}/{name}"] for name in ("loss", "accuracy")}
        self.log_dict(bar, prog_bar=True, logger=False, sync_dist=True)
        self._figures_of_epoch().update({name: float(v) for name, v in values.items()})
        loss.reset()
        scores.reset()

    def _figures_of_epoch(self) -> dict[str, float]:
        """The epoch's place in the history; an epoch without figures has one too."""
        while len(self.history) <= self.current_epoch:
            self.history.append({})
        return self.history[self.current_epoch]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed run needs to end as one that was not interrupted."""
        checkpoint["history"] = [dict(figures) for figures in self.history]
        checkpoint["chance"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["chance"]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the figures of the epochs before, and what is drawn next."""
        self.history = [dict(figures) for figures in checkpoint["history"]]
        self._chance = checkpoint["chance"]

    def _go_on_by_chance(self) -> None:
        """Puts random generators where they were when the checkpoint was saved."""
        states, self._chance = self._chance, {}
        if "cpu" in states:
            torch.set_rng_state(states["cpu"].cpu())
        if "cuda" in states and self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"].cpu(), self.device)

    def configure_optimizers(self) -> Any:
        """The optimizer over what is trained, and a scheduler.

        It steps after every batch; `ReduceLROnPlateau` does after every validation, by its loss.
        """
        from bcd.config.check import FILLED_IN, instantiate

        settings = dict(self._optimizer or {})
        groups = parameter_groups(self.network, self._model, learning_rate(settings))
        optimizer = instantiate(settings, params=groups)
        if not self._scheduler:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        filled: dict[str, Any] = {
            name: steps for name in FILLED_IN if self._scheduler.get(name, steps) is None
        }
        if "max_lr" in self._scheduler:  # one for all groups would level them
            highest = parameter_groups(self.network, self._model, self._scheduler["max_lr"])
            filled["max_lr"] = [group["lr"] for group in highest]
        scheduler = instantiate({**self._scheduler, **filled}, optimizer=optimizer)
        when: dict[str, Any] = {"interval": "step"}
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            epochs = self.trainer.check_val_every_n_epoch or 1
            when = {"interval": "epoch", "frequency": epochs, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **when}}


def log_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (N,) of the labels (N,), in nats, from logits (N, classes)."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def epoch_scores(classes: int) -> MetricCollection:
    """Accuracy (share of images that are right) and macro precision, recall and F1.

    Macro: the plain mean over classes, so that each counts alike however many images it has.
    Train and val hold every class, so how torchmetrics counts absent ones is of no matter.
    """
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "precision": MulticlassPrecision(classes, average="macro"),
            "recall": MulticlassRecall(classes, average="macro"),
            "f1": MulticlassF1Score(classes, average="macro"),
        }
    )
