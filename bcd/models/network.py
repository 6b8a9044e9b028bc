"""The network: normalization, a frozen prefix, trained blocks, pooling and a head."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.input_views import CELLS
from bcd.config.schema import ModelConfig
from bcd.errors import ConfigError
from bcd.models.backbones.blocks import pool
from bcd.models.backbones.build import Backbone
from bcd.models.cells import CellHead, mean_of_cells
from bcd.models.data_parallel import GlobalDropout
from bcd.models.frozen_prefix import FrozenPrefix
from bcd.models.heads.averaged import AveragedHeads, average
from bcd.models.heads.factory import Head, make_head
from bcd.models.ood_descriptor import OodDescriptor
from bcd.models.test_time import tta_views


def freeze_statistics(part: nn.Module) -> None:
    """Makes BatchNorm layers use their running statistics without updating them."""
    for module in part.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(False)


class MemberTrunks(nn.Module):
    """The trained blocks of each member of an ensemble.

    Args:
        blocks: Of one member; they are copied.
        members: Number of members.
    """

    def __init__(self, blocks: nn.Sequential, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(blocks) for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        """Maps the output of the prefix to the features of all members, concatenated: (N, F)."""
        return torch.cat([pool(blocks(x)) for blocks in self.members], 1)


class SmearNetwork(nn.Module):
    """From images to logits.

    Args:
        backbone: Its blocks, with their normalization and number of features.
        classes: Number of classes.
        cfg: The `model` group.
        head: The `head` group; None for a linear head.
        members: Number of members of an ensemble, which share the prefix and have trained blocks
            and a head of their own. Their probabilities are averaged.
        test_time: As the attribute.

    Attributes:
        prefix: The blocks that are never trained.
        trunk: The trained blocks; those of an ensemble return the features of all members.
        descriptor: What out-of-distribution detection sees; never trained.
        test_time: Name of the test-time views that answers are averaged over; None for none.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        cfg: ModelConfig,
        head: HeadConfig | None = None,
        members: int = 1,
        test_time: str | None = None,
    ) -> None:
        super().__init__()
        self.test_time = test_time
        blocks = backbone.blocks
        trained = len(blocks) if cfg.unfreeze == "all" else int(cfg.unfreeze)
        if trained > len(blocks):
            raise ConfigError(
                f"model.unfreeze={trained}: {cfg.title} has {len(blocks)} blocks (or set all)"
            )
        cut = len(blocks) - trained
        views = cfg.input_views()
        self.prefix = FrozenPrefix(blocks[:cut], not trained, backbone.mean, backbone.std, views)
        self.trunk = blocks[cut:]
        if members > 1 and trained:
            self.trunk = nn.Sequential(MemberTrunks(self.trunk, members))
        self.descriptor = OodDescriptor(
            blocks, backbone.mean, backbone.std, views[0].described.side, cut
        )
        of_cells = cfg.roi == CELLS
        if of_cells and test_time:
            raise ConfigError(f"test_time={test_time}: data.roi=cells has no test-time views")
        self.dropout = GlobalDropout(0 if of_cells else cfg.dropout)
        head = head or with_defaults(HeadConfig)

        def make() -> Head | CellHead:
            if of_cells:
                return CellHead(backbone.features, classes, head, cfg.cell_pooling, cfg.dropout)
            return make_head(len(views) * backbone.features, classes, head)

        heads = [make() for _ in range(members)]
        self.head = heads[0] if members == 1 else AveragedHeads(heads, shared=not trained)
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

    def vectors(self, x: Tensor) -> Tensor:
        """Maps what `embed` takes to a vector for each image, (N, features).

        It is the input of the head; of cells their mean.
        """
        features = self.embed(x)
        return mean_of_cells(features) if self.prefix.of_cells else features

    def answer(self, x: Tensor) -> Tensor:
        """Maps the output of the frozen prefix to logits (N, classes)."""
        logits: Tensor = self.head(self.dropout(self._embed_rest(x)))
        return self.known(logits, x)

    def known(self, logits: Tensor, x: Tensor) -> Tensor:
        """Logits (N, classes), 0 for images without white cells where the network gets only these.

        Args:
            logits: Of the head.
            x: Output of the frozen prefix, which is 0 for these images.
        """
        if not self.prefix.of_mask:
            return logits
        shows = (x != 0).flatten(1).any(1)[:, None]
        return torch.where(shows, logits, torch.zeros_like(logits))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to logits (N, classes)."""
        return self.outputs(x)[0] if self.test_time else self.answer(self.prefix(x))

    def _embed_rest(self, x: Tensor) -> Tensor:
        return pool(self.trunk(x)) if len(self.trunk) else x

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps inputs to logits (N, classes) and how much members differ (N,), 0 without members.

        With `test_time` these are of the average over its views.

        Args:
            x: As `embed` takes them, or outputs of the prefix while it is skipped.
        """
        if not self.test_time:
            x = self.prefix(x)
            logits, differ = head_outputs(self.head, self._embed_rest(x))
            return self.known(logits, x), differ
        each = self.each(x)
        if isinstance(self.head, AveragedHeads):
            return self.head.combine(each)
        return each[0], each.new_zeros(each.shape[1])

    def each(self, x: Tensor) -> Tensor:
        """Log-probabilities of each member, (members, N, classes), averaged over `test_time`.

        Args:
            x: Images uint8 (N, 3, H, W), or outputs of the prefix while it is skipped, for which
                there are no test-time views.
        """
        assert not (self.test_time and self.prefix.skipped)
        views = [x] if self.test_time is None else tta_views(x, self.test_time)
        return average(torch.stack([self._each(view) for view in views]))

    def _each(self, x: Tensor) -> Tensor:
        x = self.prefix(x)
        features = self._embed_rest(x)
        if isinstance(self.head, AveragedHeads):
            each = self.head.each(features)
            return torch.stack([torch.log_softmax(self.known(one, x), dim=1) for one in each])
        return torch.log_softmax(self.known(self.head(features), x), dim=1)[None]


def head_outputs(head: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """Maps features to logits (N, classes) and how much members differ (N,), 0 without members."""
    if not isinstance(head, AveragedHeads):
        return head(features), features.new_zeros(features.shape[0])
    return head.combine(head.each(features))
