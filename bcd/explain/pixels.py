"""The inputs of a network as floats: their input views, and empty fields of the same colour."""

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


def background_colours(view: Tensor) -> Tensor:
    """Mean colour (N, 3) of the brightest quarter of the pixels, the background of a smear.

    Args:
        view: Images (N, 3, H, W).
    """
    pixels = view.flatten(2)
    brightest = pixels.sum(1).topk(max(pixels.shape[2] // 4, 1)).indices
    return pixels.gather(2, brightest[:, None].expand(-1, 3, -1)).mean(2)


def empty_fields(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Images of one colour, the background of each image and input view; same shape as `x`."""
    views = split_views(x, sides)
    return join_views([background_colours(v)[:, :, None, None].expand_as(v) for v in views])
