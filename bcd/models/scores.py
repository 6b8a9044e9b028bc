"""The figures that are logged for each epoch, and the calibration of logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)


@dataclass(frozen=True)
class Calibration:
    """Calibrates logits as the decision policy does (`calibration.calibrated_probabilities`).

    Attributes:
        temperature: Divides the logits.
        log_priors: Subtracted afterwards, one for each class; None: no prior correction.
    """

    temperature: float = 1.0
    log_priors: tuple[float, ...] | None = None

    @classmethod
    def of(cls, policy: Mapping[str, Any] | None) -> Calibration:
        """That of a decision policy as a checkpoint stores it; changes nothing without one."""
        if policy is None:
            return cls()
        priors = policy["priors"]
        logs = None if priors is None else tuple(math.log(share) for share in priors)
        return cls(float(policy["temperature"]), logs)

    def apply(self, logits: Tensor) -> Tensor:
        """Maps logits (N, classes) to calibrated ones in float32, (N, classes)."""
        scaled = logits.float() / self.temperature
        return scaled if self.log_priors is None else scaled - scaled.new_tensor(self.log_priors)


def log_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (N,) of the labels (N,), in nats, from logits (N, classes)."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def mean_weight(labels: Tensor, class_weights: Tensor | None) -> Tensor | float:
    """The weight of the mean loss of some samples in the mean over more samples.

    Args:
        labels: Classes (N,), or shares of classes (N, classes) of mixed samples.
        class_weights: Weight of each class in the loss (classes,); None for equal ones.
    """
    # torch's mean divides by the sum of the class weights, except for shares of classes.
    if class_weights is None or labels.ndim == 2:
        return len(labels)
    return class_weights[labels].sum()


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
