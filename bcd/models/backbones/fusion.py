"""Feature fusion: several networks whose features are concatenated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bcd.models.backbones.blocks import pool


class Branch(nn.Module):
    """One of the networks, from images to its feature vector.

    Args:
        blocks: Its blocks; the last one returns maps or vectors.
        mean: Per channel, for values between 0 and 1; part of checkpoints, like `std`.
        std: Per channel.
    """

    def __init__(self, blocks: nn.Sequential, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) of values between 0 and 1 to vectors (N, features)."""
        return pool(self.blocks((x - self.get_buffer("mean")) / self.get_buffer("std")))


class FeatureFusion(nn.Module):
    """A block of networks that all get the same images.

    Args:
        branches: The networks; their vectors are concatenated in this order.

    Attributes:
        MEAN: Mean of a normalization that changes nothing, as each branch has its own.
        STD: Standard deviation of that normalization.
    """

    MEAN = (0.0, 0.0, 0.0)
    STD = (1.0, 1.0, 1.0)

    def __init__(self, branches: Iterable[Branch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) of values between 0 and 1 to vectors (N, all features)."""
        return torch.cat([branch(x) for branch in self.branches], 1)
