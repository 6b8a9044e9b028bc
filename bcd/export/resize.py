"""Resizes images of any size within an exported graph, as `bcd.data.reading.fit` does.

The area average is a product with a matrix for each side. Enlarging uses OpenCV's fixed-point
arithmetic, so that both give the same pixels, apart from rare rounding differences of 1. There are
no conditions, which a graph would not keep.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _area_weights(length: int, side: int) -> Tensor:
    """Share (side, length) of each new pixel that each old one covers.

    A shorter side is not enlarged: the first `length` rows are those of the identity.
    """
    scale = (torch.scalar_tensor(length, dtype=torch.float64) / side).clamp(min=1.0)
    start = torch.arange(side).to(torch.float64)[:, None] * scale
    pixel = torch.arange(length).to(torch.float64)[None]
    covered = torch.minimum(start + scale, pixel + 1) - torch.maximum(start, pixel)
    return (covered.clamp(min=0.0) / scale).to(torch.float32)


def _neighbours(length: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each new pixel its two old neighbours, and the weight of each, of 2048."""
    known = torch.scalar_tensor(length, dtype=torch.float64).clamp(max=float(side))
    place = (torch.arange(side).to(torch.float64) + 0.5) * (known / side) - 0.5
    share = place - place.floor()
    first = torch.minimum(place.floor().clamp(min=0.0), known - 1)
    second = torch.minimum(place.floor() + 1, known - 1)
    weights = ((1 - share) * 2048).round().to(torch.int32), (share * 2048).round().to(torch.int32)
    return first.to(torch.int64), second.to(torch.int64), weights[0], weights[1]


def _half(height: int, width: int, side: int) -> Tensor:
    """Where both sides are halved, OpenCV rounds halves up, elsewhere to even numbers."""
    tall, wide = torch.scalar_tensor(height), torch.scalar_tensor(width)
    return 0.125 * ((tall == 2 * side) & (wide == 2 * side)).to(torch.float32)


def resize(images: Tensor, side: int) -> Tensor:
    """Resizes images uint8 (N, height, width, 3) to (N, side, side, 3)."""
    height, width = images.shape[1], images.shape[2]
    found = images.to(torch.float32)
    found = torch.einsum("sh,nhwc->nswc", _area_weights(height, side), found)
    found = torch.einsum("sw,nhwc->nhsc", _area_weights(width, side), found)
    whole = (found + _half(height, width, side)).round().clamp(0.0, 255.0).to(torch.int32)
    first, second, near, far = _neighbours(width, side)
    left, right = whole.index_select(2, first), whole.index_select(2, second)
    wide = left * near[:, None] + right * far[:, None]
    first, second, near, far = _neighbours(height, side)
    top, bottom = wide.index_select(1, first) >> 4, wide.index_select(1, second) >> 4
    tall = ((top * near[:, None, None]) >> 16) + ((bottom * far[:, None, None]) >> 16)
    return ((tall + 2) >> 2).to(torch.uint8)
