"""The LightningModule: trains, validates and tests the network, and predicts probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from bcd.config.compose import as_config
from bcd.config.head import HeadConfig
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.errors import ConfigError
from bcd.models.backbones.build import build_backbone
from bcd.models.data_parallel import (
    BatchShard,
    GlobalBatchNorm,
    GlobalDropout,
    convert_batchnorm,
    scale_loss,
)
from bcd.models.finetuning import Mixer, make_optimizers
from bcd.models.fitting import fit_head
from bcd.models.heads.base import FittedHead
from bcd.models.network import SmearNetwork, freeze_statistics
from bcd.models.scores import Calibration, epoch_scores, log_losses, mean_weight

Batch = tuple[Tensor, Tensor]

_ADAM = {"_target_": "torch.optim.Adam"}


class SmearClassifier(pl.LightningModule):
    """Classifies smears with a `SmearNetwork`, by cross-entropy or with a fitted head.

    `train/loss` and `val/loss` are the plain log loss, averaged over images, whatever the batches
    are. Where training minimizes something else (class weights, smoothed labels, mixed samples),
    that is logged as `train/objective`. `test/loss` and `predict_step` use temperature and prior
    correction of the checkpoint's decision policy, if it has one.

    A head of the kinds svm, logreg, knn and forest is fitted once, by `trainer.fit`, before any
    epoch: `trainer.fit` then ends without training one.

    `SmearClassifier.load_from_checkpoint` needs no arguments but the file. The groups may be given
    as mappings; missing keys have the defaults of `conf/`.

    Args:
        model: The `model` group.
        classes: Number of classes.
        optimizer: `_target_` of an optimizer and its arguments, without the parameters; None for
            Adam with torch's defaults.
        scheduler: `_target_` of a learning-rate scheduler and its arguments, without the
            optimizer; None or empty for a constant rate.
        class_weights: Weight of each class in the loss, None for equal ones. If given, a fitted
            head weighs classes inversely to their numbers.
        augment: The `augment` group, for how training samples are mixed; None for not at all.
        head: The `head` group; None: linear.
        seed: Of the random draws of a fitted head.
        members, test_time: As of `SmearNetwork`; a release puts ensembles together.
        pretrained: Whether to load `model.weights`, which those of a checkpoint would replace.
    """

    def __init__(
        self,
        model: ModelConfig | Mapping[str, Any],
        classes: int,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        class_weights: Sequence[float] | None = None,
        augment: AugmentConfig | Mapping[str, Any] | None = None,
        head: HeadConfig | Mapping[str, Any] | None = None,
        seed: int = 0,
        members: int = 1,
        test_time: str | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        model = as_config(ModelConfig, model)
        augment = as_config(AugmentConfig, augment)
        head = as_config(HeadConfig, head)
        head.check_with(model.unfreeze, model.class_weights)
        self._optimizer, self._scheduler = dict(optimizer or _ADAM), dict(scheduler or {})
        weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.save_hyperparameters(
            {
                "model": asdict(model),
                "classes": classes,
                "optimizer": self._optimizer,
                "scheduler": self._scheduler,
                "class_weights": weights,
                "augment": asdict(augment),
                "head": asdict(head),
                "seed": seed,
                "members": members,
                "test_time": test_time,
                "pretrained": False,
            },
            logger=False,
        )
        self._model, self._seed = model, seed
        backbone = build_backbone(model if pretrained else replace(model, weights=None))
        self.network = SmearNetwork(backbone, classes, model, head, members, test_time)
        weight = None if weights is None else torch.tensor(weights)
        self.objective = nn.CrossEntropyLoss(weight=weight, label_smoothing=model.label_smoothing)
        self._mix = Mixer(augment, classes)
        self._has_objective = not head.fitted and bool(
            weights or model.label_smoothing or augment.mixup or augment.cutmix
        )
        scores = epoch_scores(classes)
        self.train_scores = scores.clone(prefix="train/")
        self.val_scores = scores.clone(prefix="val/")
        self.test_scores = scores.clone(prefix="test/")
        self.train_loss, self.val_loss, self.test_loss = (MeanMetric() for _ in range(3))
        self.train_objective = MeanMetric()
        self.calibration = Calibration()
        self._shard: BatchShard | None = None  # in one of several processes
        self._seen: list[Batch] = []  # logits and labels of the epoch's training batches
        self.history: list[dict[str, float]] = []  # one dict of figures per epoch
        self._random_states: dict[str, Tensor] = {}  # to restore when training resumes

    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to logits (N, classes)."""
        logits: Tensor = self.network(x)
        return logits

    def on_train_start(self) -> None:
        """Fits a head that is fitted; has trained BatchNorms see the batch of all processes."""
        self.calibration = Calibration()  # was fitted to the weights before
        if isinstance(self.network.head, FittedHead):
            self._fit_head()
        elif self.trainer.world_size > 1 and self._model.batchnorm == "trained":
            convert_batchnorm(self.network.trunk)

    def _fit_head(self) -> None:
        """Fits the head on all views of the train set, and has the Trainer run no epoch.

        Raises:
            ConfigError: The Trainer has several processes, or must run epochs.
        """
        trainer: Any = self.trainer
        if trainer.world_size > 1 or trainer.min_epochs or trainer.min_steps:
            raise ConfigError(
                "a fitted head is fitted in one process and without epochs: leave out "
                "trainer.min_epochs and trainer.min_steps, and set trainer.devices=1"
            )
        with trainer.precision_plugin.forward_context():
            logits, labels = fit_head(
                self.network,
                trainer.train_dataloader,
                trainer.num_training_batches,
                self.objective.weight is not None,
                self._seed,
                self.device,
            )
        self.train_scores.update(logits, labels)
        self.train_loss.update(log_losses(logits, labels))
        values = self._end_epoch("train", self.train_loss, self.train_scores)
        for logger in trainer.loggers:
            logger.log_metrics({n: float(v) for n, v in values.items()}, step=trainer.global_step)
        trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Sets the mode of every part; Lightning no longer does so before each epoch."""
        self.network.train()
        if self.current_epoch < self._model.unfreeze_from:
            freeze_statistics(self.network.trunk)
        self._restore_random_states()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Of several processes, tells each which rows of the global batch it has."""
        trainer: Any = self.trainer
        if trainer.world_size == 1:
            return
        rows = trainer.datamodule.rows(batch_idx)
        self._shard = BatchShard(trainer.global_rank, trainer.world_size, rows)
        for module in self.network.modules():
            if isinstance(module, GlobalDropout | GlobalBatchNorm):
                module.shard = self._shard

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, with smoothed labels and mixed samples where these are configured."""
        x, labels = self._mix(self.network.prefix(batch[0]), batch[1])
        logits = self.network.answer(x)
        loss: Tensor = self.objective(logits, labels)
        shard = self._shard
        count = len(logits) if shard is None else shard.count  # a placeholder does not count
        weight = mean_weight(labels, self.objective.weight)
        self.train_objective.update(loss.detach(), weight=weight if count else 0)
        # The label of a mixed sample is the class with the largest share.
        hard = labels.argmax(1) if labels.ndim == 2 else labels
        self._seen.append((logits.detach()[:count], hard[:count]))
        return loss if shard is None else scale_loss(loss, weight, shard)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keeps the backbone unchanged in the epochs that train the head alone."""
        # DDP does not allow freezing them, but optimizers skip parameters without gradients.
        if self.current_epoch < self._model.unfreeze_from:
            for parameter in self.network.trunk.parameters():
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's figures on the train set, as computed during training."""
        # All at once: an update per batch takes as long as training a head on it.
        logits, labels = (torch.cat(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        self.train_scores.update(logits, labels)
        self.train_loss.update(log_losses(logits, labels))
        self._log_epoch("train", self.train_loss, self.train_scores)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Updates the val figures with a batch, and returns its logits to callbacks."""
        logits: Tensor = self(batch[0])
        self.val_loss.update(log_losses(logits, batch[1]))
        self.val_scores.update(logits, batch[1])
        return logits

    def on_validation_epoch_end(self) -> None:
        """Logs the figures on the val set; those of the sanity check are discarded."""
        if self.trainer.sanity_checking:
            self.val_loss.reset()
            self.val_scores.reset()
            return
        self._log_epoch("val", self.val_loss, self.val_scores)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the test figures with a batch."""
        logits = self.calibration.apply(self(batch[0]))
        self.test_loss.update(log_losses(logits, batch[1]))
        self.test_scores.update(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        """Logs loss, accuracy and macro precision, recall and F1 on the test set."""
        loss = self.test_loss.compute()
        self.log_dict({"test/loss": loss, **self.test_scores.compute()}, sync_dist=True)
        self.test_loss.reset()
        self.test_scores.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (N, classes) of a batch (images, labels), calibrated where possible."""
        return torch.softmax(self.calibration.apply(self(batch[0])), dim=1)

    def _log_epoch(self, part: str, loss: MeanMetric, scores: MetricCollection) -> None:
        values = self._end_epoch(part, loss, scores)
        # They are those of all processes already; sync_dist only silences Lightning's warning.
        self.log_dict(values, sync_dist=True)
        if self.trainer.state.fn == "fit":
            bar = {f"{part} {name}": values[f"{part}/{name}"] for name in ("loss", "accuracy")}
            self.log_dict(bar, prog_bar=True, logger=False, sync_dist=True)

    def _end_epoch(
        self, part: str, loss: MeanMetric, scores: MetricCollection
    ) -> dict[str, Tensor]:
        """Puts the epoch's figures into the history, resets the metrics, returns the figures."""
        values = {f"{part}/loss": loss.compute(), **scores.compute()}
        if part == "train" and self._has_objective:
            values["train/objective"] = self.train_objective.compute()
            self.train_objective.reset()
        while len(self.history) <= self.current_epoch:
            self.history.append({})
        self.history[self.current_epoch].update({name: float(v) for name, v in values.items()})
        loss.reset()
        scores.reset()
        return values

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed run needs to end like one that was not interrupted."""
        checkpoint["history"] = [dict(figures) for figures in self.history]
        checkpoint["random_states"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["random_states"]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reads the policy's calibration, and when training resumes its history."""
        self.calibration = Calibration.of(checkpoint.get("card", {}).get("policy"))
        if self._trainer is not None and self._trainer.state.fn == "fit":
            self.history = [dict(figures) for figures in checkpoint["history"]]
            self._random_states = checkpoint["random_states"]

    def _restore_random_states(self) -> None:
        """Sets the random generators to their states when the checkpoint was saved."""
        for kind, state in self._random_states.items():
            if kind == "cpu":
                torch.set_rng_state(state.cpu())
            elif self.device.type == "cuda":
                torch.cuda.set_rng_state(state.cpu(), self.device)
        self._random_states = {}

    def configure_optimizers(self) -> Any:
        """The optimizer of what is trained and its scheduler; None for a fitted head."""
        if isinstance(self.network.head, FittedHead):
            warnings.filterwarnings("ignore", ".*`LightningModule.configure_optimizers` ret")
            return None
        return make_optimizers(
            self.network, self._model, self._optimizer, self._scheduler, self.trainer
        )
