"""The head of an ensemble: averages the probabilities of several heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class AveragedHeads(nn.Module):
    """Averages the calibrated probabilities of the members of an ensemble.

    Args:
        heads: One per member, with equal sizes.
        shared: Whether all members take the same features. Otherwise features are those of all
            members, concatenated.
    """

    temperature: Tensor

    def __init__(self, heads: Sequence[nn.Module], shared: bool) -> None:
        super().__init__()
        first: Any = heads[0]
        self.heads = nn.ModuleList(heads)
        self.shared = shared
        self.in_features = first.in_features * (1 if shared else len(heads))
        self.out_features = int(first.out_features)
        self.register_buffer("temperature", torch.ones(()))

    def each(self, features: Tensor) -> Tensor:
        """Log-probabilities of each member, (members, N, classes), before the temperature.

        Args:
            features: (N, in_features).
        """
        count = len(self.heads)
        parts = [features] * count if self.shared else features.chunk(count, dim=1)
        logits = [head(part).float() for head, part in zip(self.heads, parts, strict=True)]
        return torch.log_softmax(torch.stack(logits), dim=2)

    def combine(self, each: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms (N, classes) of the average probabilities, and `disagreement` (N,).

        Args:
            each: From `each`.
        """
        calibrated = torch.log_softmax(each / self.temperature, dim=2)
        return average(calibrated), disagreement(calibrated)

    def forward(self, features: Tensor) -> Tensor:
        """Logarithms (N, classes) of the average probabilities."""
        return self.combine(self.each(features))[0]


def average(each: Tensor) -> Tensor:
    """Logarithms (N, classes) of the mean of probabilities, given as logarithms (members, N, C)."""
    return torch.logsumexp(each, dim=0) - math.log(len(each))


def disagreement(each: Tensor) -> Tensor:
    """Mean total-variation distance between two members, over all pairs of them, (N,).

    Args:
        each: Log-probabilities, (members, N, classes), of at least two members.
    """
    pairs = itertools.combinations(each.exp(), 2)
    return torch.stack([(a - b).abs().sum(dim=1) for a, b in pairs]).mean(dim=0) / 2
