"""The network: normalization, a frozen prefix, trained blocks, pooling and a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.errors import ConfigError
from bcd.models.backbones.blocks import pool
from bcd.models.backbones.build import Backbone
from bcd.models.data_parallel import GlobalDropout
from bcd.models.heads.factory import make_head


def unpack(batch: Any, sides: Sequence[int]) -> list[Any]:
    """The input views of images that `bcd.data.input_views.pack` packed, as arrays or tensors.

    Args:
        batch: (N, bytes), several views of each image one after another.
        sides: Of each view.

    Returns:
        For each view (N, side, side, 3).
    """
    parts, start = [], 0
    for side in sides:
        stop = start + side**2 * 3
        parts.append(batch[:, start:stop].reshape(len(batch), side, side, 3))
        start = stop
    return parts


class FrozenPrefix(nn.Module):
    """The part of the network that is never trained: normalization and the first blocks.

    Its parameters require no gradient, and its BatchNorm layers stay in eval mode in whatever mode
    the network is, so that its output depends on the images alone.

    Args:
        blocks: The frozen blocks; may be empty.
        pooled: Whether to pool the output of the last block, as where no block is trained.
        mean: Per channel, for values between 0 and 1.
        std: Per channel.
        sides: Height and width in pixels of each input view, if there are several.

    Attributes:
        skipped: Set while its inputs are cached outputs; it returns them unchanged.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        pooled: bool,
        mean: Sequence[float],
        std: Sequence[float],
        sides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.blocks = blocks
        self.pooled = pooled
        self.sides = tuple(sides)
        self.skipped = False
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenPrefix:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to activations, (N, C) if pooled.

        Activations are maps (N, C, h, w), or tokens (N, T, C) within a transformer. Several input
        views come as bytes (N, all views), each goes through the blocks, and their vectors are
        concatenated: (N, views * C).
        """
        if self.skipped:
            return x
        if len(self.sides) <= 1:
            return self._activations(x)
        parts = unpack(x, self.sides)
        return torch.cat([self._activations(part.permute(0, 3, 1, 2)) for part in parts], 1)

    def _activations(self, x: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        x = (x.to(mean.dtype) - 255 * mean) / (255 * std)
        x = self.blocks(x)
        return pool(x) if self.pooled else x


def freeze_statistics(part: nn.Module) -> None:
    """Makes BatchNorm layers use their running statistics without updating them."""
    for module in part.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(False)


class SmearNetwork(nn.Module):
    """From images to logits.

    Args:
        backbone: Its blocks, with their normalization and number of features.
        classes: Number of classes.
        cfg: The `model` group.
        head: The `head` group; None for a linear head.
    """

    def __init__(
        self, backbone: Backbone, classes: int, cfg: ModelConfig, head: HeadConfig | None = None
    ) -> None:
        super().__init__()
        blocks = backbone.blocks
        trained = len(blocks) if cfg.unfreeze == "all" else int(cfg.unfreeze)
        if trained > len(blocks):
            raise ConfigError(
                f"model.unfreeze={trained}: {cfg.title} has {len(blocks)} blocks (or set all)"
            )
        cut = len(blocks) - trained
        sides = [view.side for view in cfg.input_views()]
        self.prefix = FrozenPrefix(blocks[:cut], not trained, backbone.mean, backbone.std, sides)
        self.trunk = blocks[cut:]
        self.dropout = GlobalDropout(cfg.dropout)
        features = len(sides) * backbone.features
        self.head = make_head(features, classes, head or with_defaults(HeadConfig))
        self._trains_norms = cfg.batchnorm == "trained"
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> SmearNetwork:
        """Sets the mode; BatchNorm in trained blocks follows only if `model.batchnorm=trained`."""
        super().train(mode)
        if not self._trains_norms:
            freeze_statistics(self.trunk)
        return self

    def embed(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to the input of the head, (N, features)."""
        return self._embed_rest(self.prefix(x))

    def answer(self, x: Tensor) -> Tensor:
        """Maps the output of the frozen prefix to logits (N, classes)."""
        logits: Tensor = self.head(self.dropout(self._embed_rest(x)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to logits (N, classes)."""
        return self.answer(self.prefix(x))

    def _embed_rest(self, x: Tensor) -> Tensor:
        return pool(self.trunk(x)) if len(self.trunk) else x
