"""The network: normalisation, a frozen prefix, trained blocks, pooling and a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.errors import ConfigError
from bcd.models.backbones.blocks import pool
from bcd.models.backbones.build import Backbone
from bcd.models.data_parallel import SharedDropout
from bcd.models.heads.factory import make_head


class FrozenPrefix(nn.Module):
    """The part of the network that is never trained: normalisation and the first blocks.

    Its parameters want no gradient and its BatchNorm stays in eval mode whatever mode the network
    is put into, so that its output depends on the images alone.

    Args:
        blocks: The frozen blocks; may be empty.
        pooled: Whether to pool the last block's output, as where nothing after it is trained.
        mean: Per channel, for values between 0 and 1.
        std: Per channel.

    Attributes:
        fed_outputs: Set where its inputs are outputs that it gave before; it hands them on.
    """

    def __init__(
        self, blocks: nn.Sequential, pooled: bool, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.blocks = blocks
        self.pooled = pooled
        self.fed_outputs = False
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenPrefix:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to activations, (N, C) if pooled.

        Activations are maps (N, C, h, w), or inside a transformer tokens (N, T, C).
        """
        if self.fed_outputs:
            return x
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        x = (x.to(mean.dtype) - 255 * mean) / (255 * std)
        x = self.blocks(x)
        return pool(x) if self.pooled else x


def freeze_statistics(part: nn.Module) -> None:
    """Makes BatchNorm layers use their statistics and leave them as they are."""
    for module in part.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(False)


class SmearNetwork(nn.Module):
    """From images to logits.

    Args:
        backbone: Its blocks, and what they want and give.
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
                f"model.unfreeze={trained}: {cfg.title} has {len(blocks)} blocks (or say all)"
            )
        cut = len(blocks) - trained
        self.prefix = FrozenPrefix(blocks[:cut], not trained, backbone.mean, backbone.std)
        self.trunk = blocks[cut:]
        self.dropout = SharedDropout(cfg.dropout)
        self.head = make_head(backbone.features, classes, head or with_defaults(HeadConfig))
        self._norms_follow = cfg.batchnorm == "trained"
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> SmearNetwork:
        """Sets the mode; BatchNorm of trained blocks follows only where it is itself trained."""
        super().train(mode)
        if not self._norms_follow:
            freeze_statistics(self.trunk)
        return self

    def embed(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to what the head is given, (N, features)."""
        return self._embed_rest(self.prefix(x))

    def answer(self, x: Tensor) -> Tensor:
        """Maps what the frozen prefix gives to logits (N, classes)."""
        logits: Tensor = self.head(self.dropout(self._embed_rest(x)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to logits (N, classes)."""
        return self.answer(self.prefix(x))

    def _embed_rest(self, x: Tensor) -> Tensor:
        return pool(self.trunk(x)) if len(self.trunk) else x
