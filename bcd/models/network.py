"""The network: normalization, a frozen prefix, trained blocks, pooling and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.errors import ConfigError
from bcd.models.backbones.blocks import pool
from bcd.models.backbones.build import Backbone
from bcd.models.data_parallel import GlobalDropout
from bcd.models.frozen_prefix import FrozenPrefix
from bcd.models.heads.factory import make_head
from bcd.models.ood_descriptor import OodDescriptor


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

    Attributes:
        prefix: The blocks that are never trained.
        trunk: The trained blocks.
        descriptor: What out-of-distribution detection sees; never trained.
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
        self.descriptor = OodDescriptor(blocks, backbone.mean, backbone.std, sides[0], cut)
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
