"""Finds the layers of a network whose maps Grad-CAM weighs, by what they return and not by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from bcd.models.backbones.fusion import FeatureFusion
from bcd.models.backbones.timm import Whole
from bcd.models.network import MemberTrunks, SmearNetwork

Chain = list[nn.Module]


def find_layers(network: SmearNetwork, x: Tensor) -> list[nn.Module]:
    """Finds the last layer of each path through a network that still knows places.

    That is the last one that returns maps or tokens at more than one place, with a gradient at
    more than one: after the last attention of a transformer, only the class token counts. It is
    called once for each input view. Fused networks and members with trained blocks are paths of
    their own.

    Args:
        network: In eval mode.
        x: One image as the network takes it, as floats.

    Returns:
        The layers, each once; empty if a path has none, as where a network is no plain sequence.
    """
    chains = _chains([*network.prefix.blocks, *network.trunk])
    outputs: dict[nn.Module, Tensor] = {}
    calls: Counter[nn.Module] = Counter()

    def keep(step: nn.Module, _: Any, output: Any) -> None:
        calls[step] += 1
        if isinstance(output, Tensor) and as_maps(output) is not None:
            outputs.pop(step, None)  # in the order of the last calls
            outputs[step] = output

    with ExitStack() as stack:
        for step in {step for chain in chains for step in chain}:
            stack.callback(step.register_forward_hook(keep).remove)
        features = network.embed(x.detach().requires_grad_())
    once = len(network.prefix.views)
    usable = [step for step in _with_gradients(outputs, features) if calls[step] == once]
    last = [next((s for s in reversed(usable) if s in chain), None) for chain in chains]
    layers = [step for step in dict.fromkeys(last) if step is not None]
    return layers if None not in last and _nothing_passes(network, x, layers) else []


def _nothing_passes(network: SmearNetwork, x: Tensor, layers: Iterable[nn.Module]) -> bool:
    """Whether the features do not depend on the image if the outputs of the layers are constant."""
    pixels = x.detach().requires_grad_()
    with ExitStack() as stack:
        for layer in layers:
            hook = layer.register_forward_hook(lambda _, __, output: output.detach())
            stack.callback(hook.remove)
        features = network.embed(pixels)
    if not features.requires_grad:
        return True
    return torch.autograd.grad(features.sum(), pixels, allow_unused=True)[0] is None


def as_maps(output: Tensor) -> Tensor | None:
    """Views the output of a layer as maps (N, C, h, w); None if it has only one place.

    Args:
        output: Maps (N, C, h, w), maps with channels last (N, h, w, C), or tokens (N, T, C), of
            which the last n x n are of patches and those before them of none.
    """
    if output.ndim == 3:
        side = math.isqrt(output.shape[1])
        patches = output[:, output.shape[1] - side**2 :]
        output = patches.transpose(1, 2).reshape(len(output), -1, side, side)
    elif output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        output = output.permute(0, 3, 1, 2)
    return output if output.ndim == 4 and min(output.shape[2:]) > 1 else None


def _with_gradients(outputs: dict[nn.Module, Tensor], features: Tensor) -> list[nn.Module]:
    """The steps whose outputs change the features at more than one place."""
    # Any direction will do, but features must not cancel, as in a sum after a LayerNorm.
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(features.shape, generator=generator).to(features)
    found = torch.autograd.grad(
        (features * weights).sum(), list(outputs.values()), allow_unused=True
    )
    usable = []
    for step, gradient in zip(outputs, found, strict=True):
        maps = None if gradient is None else as_maps(gradient)
        if maps is not None and int(maps.abs().sum(1).count_nonzero()) > 1:
            usable.append(step)
    return usable


def _chains(modules: Iterable[nn.Module]) -> list[Chain]:
    """The paths from the image to the features, each as the layers on it."""
    chains: list[Chain] = [[]]
    for step in _steps(modules):
        if isinstance(step, FeatureFusion):
            parts: list[Any] = list(step.branches)
            branches = [part.blocks for part in parts]
        elif isinstance(step, MemberTrunks):
            branches = list(step.members)
        else:
            for chain in chains:
                chain.append(step)
            continue
        inner = [path for branch in branches for path in _chains(branch)]
        chains = [[*chain, *path] for chain in chains for path in inner]
    return chains


def _steps(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers themselves where modules only run others one after another."""
    for module in modules:
        if type(module).forward is nn.Sequential.forward or isinstance(module, nn.ModuleList):
            yield from _steps(module.children())
        elif isinstance(module, Whole):
            yield from _steps(module.network.children())
        else:
            yield module
