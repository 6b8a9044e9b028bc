"""The frozen prefix: the part of a network that is never trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.input_views import CELLS, MASKED, InputView
from bcd.models.backbones.blocks import pool
from bcd.models.cells import place_cells, unpack_cells


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
        parts.append(batch[:, start:stop].reshape(batch.shape[0], side, side, 3))
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
        views: The input views, unless it gets plain images.

    Attributes:
        skipped: Set while its inputs are cached outputs; it returns them unchanged.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        pooled: bool,
        mean: Sequence[float],
        std: Sequence[float],
        views: Sequence[InputView] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.blocks = blocks
        self.pooled = pooled
        self.views = tuple(views)
        self.skipped = False
        self.requires_grad_(False)
        self.train(False)

    @property
    def of_cells(self) -> bool:
        """Whether it gets a crop of each white cell."""
        return bool(self.views) and self.views[0].roi == CELLS

    @property
    def of_mask(self) -> bool:
        """Whether it gets images with everything but white cells painted over.

        The output for an image without any is 0 everywhere, which no other image has.
        """
        return bool(self.views) and self.views[0].roi == MASKED

    def train(self, mode: bool = True) -> FrozenPrefix:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images uint8 (N, 3, H, W) to activations, (N, C) if pooled.

        Activations are maps (N, C, h, w), or tokens (N, T, C) within a transformer. Several input
        views come as bytes (N, all views), each goes through the blocks, and their vectors are
        concatenated: (N, views * C). Cells come as bytes too and give (N, cells, C + 1), as in
        `bcd.models.cells`. It runs without gradients, unless `x` is of floats that require one, as
        where an answer is explained.
        """
        if self.skipped:
            return x
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return self._outputs(x)

    def _outputs(self, x: Tensor) -> Tensor:
        if self.of_cells:
            crops, present = unpack_cells(x, self.views[0])
            return place_cells(self._of_cells(crops[present].permute(0, 3, 1, 2)), present)
        if len(self.views) <= 1:
            return self._of_image(x)
        parts = unpack(x, [view.side for view in self.views])
        return torch.cat([self._of_image(part.permute(0, 3, 1, 2)) for part in parts], 1)

    def _of_image(self, x: Tensor) -> Tensor:
        """Activations of an input view; 0 for a masked image that shows nothing."""
        found = self._activations(x)
        if not self.of_mask:
            return found
        pixels = x.flatten(2)
        shows = (pixels.amax(2) != pixels.amin(2)).any(1)
        return found * shows.to(found.dtype).view(-1, *[1] * (found.ndim - 1))

    def _of_cells(self, crops: Tensor) -> Tensor:
        """Features (cells, C), also if there is no cell."""
        # With a blank crop no batch is empty, which some layers cannot compute.
        blank = crops.new_zeros(1, *crops.shape[1:])
        return self._activations(torch.cat([crops, blank]))[:-1]

    def normalized(self, x: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W), with the mean subtracted and divided by the deviation."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (x.to(mean.dtype) - 255 * mean) / (255 * std)

    def _activations(self, x: Tensor) -> Tensor:
        x = self.blocks(self.normalized(x))
        return pool(x) if self.pooled else x
