"""The inputs of a network as floats: their input views, and copies without any structure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bcd.models.frozen_prefix import unpack


def split_views(x: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """The input views of a batch, each (N, 3, side, side).

    Args:
        x: Images (N, 3, H, W), or several input views of each one after another, (N, values).
        sides: Of the input views in pixels.
    """
    return [x] if x.ndim == 4 else [part.permute(0, 3, 1, 2) for part in unpack(x, sides)]


def join_views(views: Sequence[Tensor]) -> Tensor:
    """What `split_views` splits."""
    if len(views) == 1:
        return views[0]
    return torch.cat([view.permute(0, 2, 3, 1).flatten(1) for view in views], 1)


def flat_images(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Images of one colour, the mean of each image and input view; same shape as `x`."""
    views = split_views(x, sides)
    return join_views([view.mean((2, 3), keepdim=True).expand_as(view) for view in views])
