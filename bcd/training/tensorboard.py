"""What TensorBoard shows beside the figures of each epoch, while a run trains and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.reading import read_image
from bcd.evaluation.metrics import confusion
from bcd.evaluation.predictions import Mistake, find_mistakes
from bcd.evaluation.results import Result
from bcd.models.classifier import SmearClassifier
from bcd.reporting.raster import captioned, confusion_image, side_by_side
from bcd.storage import written_path

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SHOWN = 6  # misclassified images of an epoch
_TEST_SHOWN = 12  # misclassified images of test
_COLUMNS = 3  # TensorBoard shrinks wide pictures until their text cannot be read
_LOGGED = ("loss", "accuracy", "precision", "recall", "f1")


class BoardCallback(pl.Callback):
    """Logs learning rates, the gradient norm, and the answers on val as pictures.

    Scalars are logged once every `log_every_n_steps` optimizer steps, to all loggers: `lr/<group>`,
    and `train/grad_norm`, before any clipping. The confusion matrix on val and, if asked for, some
    misclassified images are logged to TensorBoard after each evaluation of val. Of several
    processes, the matrix is the sum over all, and the images are those of the first.

    Args:
        images: Whether to log misclassified images, the most confident errors first.
    """

    def __init__(self, images: bool) -> None:
        self._images = images
        self._answers: list[tuple[Tensor, Tensor]] = []  # of val: logits and labels

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Logs the scalars, if this is their step."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.loggers or not every or trainer.global_step % every:
            return
        groups = optimizer.param_groups
        found = {f"lr/{group.get('name', n)}": float(group["lr"]) for n, group in enumerate(groups)}
        gradients = _gradients(optimizer, cast(SmearClassifier, pl_module))
        if gradients:
            found["train/grad_norm"] = float(torch.nn.utils.get_total_norm(gradients))
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the answers of an evaluation that was interrupted."""
        self._answers.clear()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the logits of a batch."""
        if not trainer.sanity_checking:
            self._answers.append((outputs, batch[1]))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the confusion matrix on val and misclassified images."""
        boards = boards_of(trainer.loggers)
        if not boards or not self._answers:
            return
        logits, labels = (torch.cat(part) for part in zip(*self._answers, strict=True))
        self._answers.clear()
        probabilities = torch.softmax(logits.float(), dim=1)
        sure, truth = probabilities.cpu().numpy(), labels.cpu().numpy()
        own = torch.from_numpy(confusion(truth, sure.argmax(axis=1), sure.shape[1]))
        summed: Any = trainer.strategy.reduce(own.to(logits.device), reduce_op="sum")
        if not trainer.is_global_zero:
            return
        data: SmearDataModule = trainer.datamodule  # type: ignore[attr-defined]
        matrix, catalog = summed.tolist(), data.catalog
        title = f"val, n = {int(summed.sum())}, epoch {trainer.current_epoch + 1}"
        pictures = {"val/confusion": confusion_image(matrix, catalog.classes, title)}
        if self._images and (found := _val_mistakes(sure, truth, trainer, data)):
            pictures["val/mistakes"] = _photographs(found[:SHOWN], catalog)
        log_pictures(boards, pictures, max(trainer.global_step - 1, 0))  # as their scalars


def boards_of(loggers: Sequence[pl.loggers.Logger]) -> list[SummaryWriter]:
    """TensorBoard's writers among the loggers."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def log_pictures(
    boards: Sequence[SummaryWriter], pictures: dict[str, NDArray[np.uint8]], step: int
) -> None:
    """Logs pictures, RGB (height, width, 3), by their tag."""
    for board in boards:
        for tag, pixels in pictures.items():
            board.add_image(tag, pixels, step, dataformats="HWC")


def log_test(
    loggers: Sequence[pl.loggers.Logger],
    result: Result,
    catalog: Catalog,
    step: int,
    images: bool,
) -> None:
    """Logs the figures of test, and to TensorBoard its confusion matrix and curves of each class.

    Args:
        loggers: Those of the trainer, which are finished afterwards.
        result: Of test.
        catalog: Holds the images.
        step: Number of optimizer steps.
        images: Whether to log misclassified images, too.
    """
    metrics, boards = result.metrics, boards_of(loggers)
    title = f"test, n = {metrics['n']}"
    pictures = {"test/confusion": confusion_image(metrics["confusion"], catalog.classes, title)}
    found = find_mistakes(result.predictions, catalog.classes)
    if boards and images and found:
        pictures["test/mistakes"] = _photographs(found[:_TEST_SHOWN], catalog)
    log_pictures(boards, pictures, step)
    for board in boards:
        for number, name in enumerate(catalog.classes):
            truth = (result.labels == number).astype(np.int64)
            if truth.any():
                tag, scores = f"test/{name}", result.probabilities[:, number]
                board.add_pr_curve(tag, truth, scores, step)
    for logger in loggers:
        logger.log_metrics({f"test/{n}": metrics[n] for n in _LOGGED}, step=step)
        logger.finalize("success")


def _gradients(optimizer: torch.optim.Optimizer, pl_module: SmearClassifier) -> list[Tensor]:
    """The gradients that the step will use."""
    held: set[int] = set()
    if pl_module.current_epoch < pl_module.hparams["model"]["unfreeze_from"]:
        held = {id(parameter) for parameter in pl_module.network.trunk.parameters()}
    return [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None and id(parameter) not in held
    ]


def _val_mistakes(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    trainer: pl.Trainer,
    data: SmearDataModule,
) -> list[Mistake]:
    """Misclassified images of val, most confident first; `index` counts in the catalog."""
    loader: Any = trainer.val_dataloaders
    classes, images = data.catalog.classes, data.catalog.images
    found = []
    # Where val is limited, there are more keys than answers.
    for (index, _), p, label in zip(loader.sampler, probabilities, labels, strict=False):
        best = int(p.argmax())
        if best != label:
            names = classes[label], classes[best]
            found.append(Mistake(index, images[index].path, *names, float(p[best])))
    return sorted(found, key=lambda mistake: -mistake.probability)


def _photographs(mistakes: Sequence[Mistake], catalog: Catalog) -> NDArray[np.uint8]:
    """The images, with true and predicted class below each."""
    tiles = []
    for mistake in mistakes:
        name = written_path(mistake.path.rpartition("/")[2])
        lines = [name, f"is {mistake.label}", f"{mistake.prediction} ({mistake.probability:.0%})"]
        tiles.append(captioned(read_image(catalog.root / mistake.path), lines))
    return side_by_side(tiles, _COLUMNS)
