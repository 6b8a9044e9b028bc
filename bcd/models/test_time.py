"""Test-time views: versions of an image whose answers are averaged."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_ZOOM = 1.2  # factor of the larger and the smaller version


def _d4(x: Tensor) -> list[Tensor]:
    # Turns as reflections, which can be exported.
    quarter = x.transpose(2, 3)
    turned = [x, quarter.flip(2), x.flip(2, 3), quarter.flip(3)]
    return turned + [view.flip(3) for view in turned]


def _flips(x: Tensor) -> list[Tensor]:
    return [x, x.flip(3)]


def _scales(x: Tensor) -> list[Tensor]:
    side = int(x.shape[2])  # constant, also where tracing makes it a tensor
    small = round(side / _ZOOM / 2) * 2
    edge = (side - small) // 2
    larger = _resized(x[:, :, edge : side - edge, edge : side - edge], side)
    border = [(side - small) // 2, side - small - (side - small) // 2] * 2
    smaller = functional.pad(_resized(x, small), border, mode="reflect")
    return [x, larger, smaller]


def _resized(x: Tensor, side: int) -> Tensor:
    """Resizes squares, bilinear with antialiasing, as a product that can be exported."""
    weights = torch.from_numpy(_weights(int(x.shape[2]), side)).to(x.device)
    found = torch.matmul(torch.matmul(weights, x.float()), weights.T)
    rounded = found.round().clamp(0, 255)
    # The gradient of rounding is zero; where one is required, it is that of the resized pixels.
    return found + (rounded - found).detach() if found.requires_grad else rounded


@functools.cache
def _weights(length: int, side: int) -> NDArray[np.float32]:
    """Weights (side, length) of old pixels in new ones: a triangle as wide as a pixel."""
    scale = length / side
    centres = (np.arange(side)[:, None] + 0.5) * scale
    away = np.abs(np.arange(length)[None] + 0.5 - centres) / max(scale, 1)
    weights = np.maximum(1 - away, 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


_KINDS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "d4": _d4,
    "flips": _flips,
    "scales": _scales,
}


def tta_views(x: Tensor, kind: str) -> list[Tensor]:
    """The test-time views of images, the unchanged images first.

    Args:
        x: Images uint8 (N, 3, S, S).
        kind: `d4` for the eight turns and reflections, `flips` for the image and its mirror image,
            `scales` for the image, magnified and reduced.

    Returns:
        Each (N, 3, S, S), with values from 0 to 255.
    """
    return [view.contiguous(memory_format=torch.channels_last) for view in _KINDS[kind](x)]
