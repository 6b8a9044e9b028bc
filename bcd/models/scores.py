"""The figures that are logged for each epoch."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)


def log_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (N,) of the labels (N,), in nats, from logits (N, classes)."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def epoch_scores(classes: int) -> MetricCollection:
    """Accuracy (share of images classified correctly) and macro precision, recall and F1.

    Macro is the plain mean over classes, so that each class counts the same. Train, val and test
    sets contain every class, so how torchmetrics treats absent ones does not matter.
    """
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "precision": MulticlassPrecision(classes, average="macro"),
            "recall": MulticlassRecall(classes, average="macro"),
            "f1": MulticlassF1Score(classes, average="macro"),
        }
    )
