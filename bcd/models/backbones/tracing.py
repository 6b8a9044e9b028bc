"""Traces one forward pass to find out whether a timm network is a plain sequence of its layers.

timm's own information does not suffice for this. `feature_info` names the layers that end a stage,
`group_matcher` groups parameters by depth and `forward_intermediates` returns what stages compute,
but none of them can run a network from the middle, which training on cached features of frozen
blocks requires. Nor do they say whether a network computes anything between its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# The step of a vision transformer that adds positions to patches; a method, not a layer.
POSITIONS = "_pos_embed"


@dataclass(frozen=True)
class Layout:
    """How a timm network is cut into blocks.

    Attributes:
        links: Paths of the layers that `forward_features` applies in sequence, with `POSITIONS`
            among them where it takes that step. Empty if it does anything else.
        inner: Children of the network that `POSITIONS` calls.
        features: Length of the vector that `forward_head` passes to the classifier.
    """

    links: tuple[str, ...]
    inner: tuple[str, ...]
    features: int


def trace(network: Any, size: int) -> Layout:
    """Sends images through a timm network that is in eval mode on the meta device.

    Args:
        network: The network, with `forward_features` and `forward_head`.
        size: Side of the images in pixels.

    Raises:
        Exception: The network does not accept images of that size.
    """
    images = torch.empty(2, 3, size, size, device="meta")
    chain = _Chain(images)
    with ExitStack() as stack, torch.no_grad():
        for path, layer in _layers(network):
            before = layer.register_forward_pre_hook(chain.entering(path), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(layer.register_forward_hook(chain.leaving(path)).remove)
        if hasattr(network, POSITIONS):
            setattr(network, POSITIONS, chain.traced(POSITIONS, getattr(network, POSITIONS)))
            stack.callback(delattr, network, POSITIONS)
        maps = network.forward_features(images)
        links = tuple(chain.links) if chain.ends_in(maps) else ()
        vectors = network.forward_head(maps, pre_logits=True)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        raise ValueError("it does not turn an image into a vector")
    return Layout(links, tuple(chain.inner), vectors.shape[1])


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A network's children by path; plain sequences among them are replaced by their children."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward:
            yield from ((f"{name}.{inner}", layer) for inner, layer in child.named_children())
        else:
            yield name, child


class _Chain:
    """The layers that one tensor passes through.

    The chain is whole only if each layer gets exactly the tensor that the layer before it
    returned, not changed in place in between, and nothing else. Then these layers in sequence are
    all that happens to the tensor.
    """

    def __init__(self, start: Tensor) -> None:
        self.links: list[str] = []
        self.inner: list[str] = []
        self._whole = True
        self._inside: str | None = None
        self._step_to(start)

    def ends_in(self, result: Any) -> bool:
        """Whether the chain is whole and ends in this result."""
        if self.links[:1] != ["patch_embed"] or self.links[1:2] != [POSITIONS]:
            self._whole &= POSITIONS not in self.links
        self._whole &= bool(self.links) and len(set(self.links)) == len(self.links)
        return self._whole and self._is_at(result)

    def entering(self, path: str) -> Callable[..., None]:
        """A forward pre-hook of a layer."""

        def hook(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            self._enter(path, given, named)

        return hook

    def leaving(self, path: str) -> Callable[..., None]:
        """A forward hook of a layer."""

        def hook(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            self._leave(path, result)

        return hook

    def traced(self, path: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that is traced like a layer."""

        def call(*given: Any, **named: Any) -> Any:
            self._enter(path, given, named)
            result = method(*given, **named)
            self._leave(path, result)
            return result

        return call

    def _enter(self, path: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if self._inside is not None:
            self.inner.append(path)
            return
        self._inside = path
        self._whole &= len(given) == 1 and self._is_at(given[0])
        self._whole &= all(value is None for value in named.values())

    def _leave(self, path: str, result: Any) -> None:
        if path == self._inside:
            self._inside = None
            self.links.append(path)
            self._step_to(result)

    def _step_to(self, result: Any) -> None:
        self._at = result
        self._whole &= isinstance(result, Tensor)
        self._version = getattr(result, "_version", None)

    def _is_at(self, value: Any) -> bool:
        return value is self._at and getattr(value, "_version", None) == self._version
