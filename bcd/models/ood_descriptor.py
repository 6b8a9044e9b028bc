"""What out-of-distribution detection sees of an image: statistics of early and middle blocks.

They come from the weights that a run starts from, before any training, so that training and
augmentation cannot change which images are familiar.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from bcd.models.backbones.fusion import FeatureFusion
from bcd.models.frozen_prefix import FrozenPrefix, unpack

# How far into the backbone the blocks are whose output is described, as shares of its blocks. They
# were chosen on the own and foreign images of `python -m bench.ood`.
DEPTHS = (0.37, 0.58, 0.74)


class OodDescriptor(FrozenPrefix):
    """Means and standard deviations, over each map, of the outputs of three blocks.

    The image has half its size: this costs a quarter of the time, and compression and other fine
    detail do not make an image unfamiliar. Networks with a fixed input size get the whole image.
    If several networks are fused, the first is used.

    Args:
        blocks: Of the backbone, with its first weights. They are copied, unless `shared`.
        mean: Per channel, for values between 0 and 1.
        std: Per channel.
        size: Height and width of the images in pixels.
        shared: Number of first blocks that are never trained, which need no copy.

    Attributes:
        features: Length of the descriptor.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        mean: Sequence[float],
        std: Sequence[float],
        size: int,
        shared: int,
    ) -> None:
        first = blocks[0] if len(blocks) else None
        if isinstance(first, FeatureFusion):
            branch: Any = first.branches[0]
            mean, std = (branch.get_buffer(n).flatten().tolist() for n in ("mean", "std"))
            blocks, shared = branch.blocks, len(branch.blocks) if shared else 0
        depths = sorted({max(round(share * len(blocks)), 1) - 1 for share in DEPTHS})
        used = [
            block if number < shared else copy.deepcopy(block)
            for number, block in enumerate(blocks[: depths[-1] + 1])
        ]
        super().__init__(nn.Sequential(*used), True, mean, std)
        self.depths = tuple(depths)
        self.size = size
        self.halved = True
        try:
            self.features = self._length()
        except (RuntimeError, AssertionError, ValueError):  # a transformer's positions are fixed
            self.halved = False
            self.features = self._length()

    def extra_repr(self) -> str:
        """Part of cache keys."""
        return f"depths={self.depths}, halved={self.halved}"

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Maps the network's inputs, uint8, to descriptors (N, features).

        Args:
            x: Images (N, 3, H, W); of several input views, (N, bytes), the first is described.
        """
        if x.ndim == 2:
            x = unpack(x, (self.size,))[0].permute(0, 3, 1, 2)
        return self._described(self.normalized(x))

    def _described(self, x: Tensor) -> Tensor:
        if self.halved:
            x = avg_pool2d(x, 2)
        found = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.depths:
                found.append(_statistics(x))
        return torch.cat(found, 1)

    @torch.no_grad()
    def _length(self) -> int:
        device = next((p.device for p in self.blocks.parameters()), torch.device("cpu"))
        return int(self._described(torch.zeros(1, 3, self.size, self.size, device=device)).shape[1])


def _statistics(x: Tensor) -> Tensor:
    """Mean and standard deviation of each channel, (N, 2 C); vectors stay as they are."""
    if x.ndim == 2:
        return x
    dims: tuple[int, ...] = (1,)  # tokens (N, T, C)
    if x.ndim == 4:
        last = x.shape[1] == x.shape[2] != x.shape[3]  # maps with channels last, (N, h, w, C)
        dims = (1, 2) if last else (2, 3)
    mean = x.mean(dims, keepdim=True)
    deviation = (x - mean).square().mean(dims).sqrt()
    return torch.cat([mean.flatten(1), deviation.flatten(1)], 1)
