"""timm's networks: finds them by name, builds them and cuts them into blocks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.check import first_line
from bcd.errors import BcdError, ConfigError
from bcd.models.backbones.blocks import grouped
from bcd.models.backbones.tracing import POSITIONS, Layout, trace
from bcd.models.backbones.weights import misfit


@dataclass(frozen=True)
class TimmNetwork:
    """What timm knows about a network without building it.

    Attributes:
        name: As timm registers it, with or without the tag of its weights.
        published: timm's `PretrainedCfg` of its weights.
    """

    name: str
    published: Any

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, for values between 0 and 1."""
        return tuple(self.published.mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel."""
        return tuple(self.published.std)

    @property
    def top1(self) -> None:
        """Unknown: timm ships no accuracies."""
        return

    @property
    def side(self) -> int:
        """Height and width of the images that its weights were tested with, in pixels."""
        return int((self.published.test_input_size or self.published.input_size)[-1])

    def check(self, size: int) -> None:
        """Checks that it accepts images of `size` x `size` pixels.

        Raises:
            ConfigError: It does not.
        """
        self._layout(size)

    def build(
        self, weights: str | None, state: dict[str, Tensor] | None, size: int
    ) -> tuple[nn.Sequential, int]:
        """Builds it with weights, in blocks.

        Args:
            weights: `imagenet`, a path of a state dict, or None for random ones.
            state: The state dict at that path.
            size: Side of the images in pixels.

        Returns:
            Blocks to be run in sequence, of which the last returns maps or vectors, and the number
            of features.

        Raises:
            BcdError: The weights are not available or do not fit.
        """
        layout = self._layout(size)
        if weights is None:
            network = self._make(size)
        elif state is None:
            network = self._download(size)
        else:
            network = self._fill(size, weights, state)
        return _cut(self._without_classifier(network), layout), layout.features

    def empty(self, size: int) -> tuple[nn.Sequential, int]:
        """The same blocks without weights, on the meta device where possible."""
        layout = self._layout(size)
        with torch.device("meta"):
            network = self._make(size)
        # Buffers that are not in the state dict would stay without values.
        if any(module._non_persistent_buffers_set for module in network.modules()):
            network = self._make(size)
        return _cut(self._without_classifier(network), layout), layout.features

    def _layout(self, size: int) -> Layout:
        return _traced(self.name, size)

    def _make(self, size: int, **settings: Any) -> Any:
        import timm

        if self.published.fixed_input_size:
            settings["img_size"] = size
        return timm.create_model(self.name, **settings)

    def _download(self, size: int) -> Any:
        if not self.published.has_weights:
            raise ConfigError(
                f"model.weights=imagenet: timm has none for {self.name}; set model.weights=null"
            )
        # It logs every retry; the final error is reported below.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            return self._make(size, pretrained=True)
        except Exception as error:
            raise BcdError(
                f"ImageNet weights of {self.name} could not be downloaded ({_reason(error)}): "
                f"download {self._address()} elsewhere and give model.weights=<its path>; "
                "model.weights=null trains from random ones"
            ) from error

    def _address(self) -> str:
        """The address of its weights."""
        from huggingface_hub import hf_hub_url

        if self.published.hf_hub_id is None:
            return str(self.published.url)
        name = self.published.hf_hub_filename or "model.safetensors"
        return hf_hub_url(self.published.hf_hub_id, name)

    def _fill(self, size: int, weights: str, state: dict[str, Tensor]) -> Any:
        try:
            # By timm, which converts older state dicts and resizes position embeddings.
            return self._make(size, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
        except Exception as error:
            reason = misfit(error) if isinstance(error, RuntimeError) else _reason(error)
            raise BcdError(f"model.weights={weights} does not fit {self.name}: {reason}") from error

    def _without_classifier(self, network: Any) -> Any:
        names = self.published.classifier or ()
        for path in (names,) if isinstance(names, str) else names:
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, nn.Identity())
        return network


def find_timm(name: str) -> TimmNetwork:
    """Finds a network of timm by its name, optionally with the tag of its weights.

    Raises:
        ConfigError: timm is not installed, or has no network of that name.
    """
    if find_spec("timm") is None:
        raise ConfigError(f"model.backbone={name}: model.library=timm requires pip install timm")
    import timm

    plain, _, tag = name.partition(".")
    tags = timm.list_pretrained(f"{plain}.*") if tag else []
    known = timm.is_model(plain) and (not tag or name in tags)
    published = timm.get_pretrained_cfg(name) if known else None
    if published is None:  # as for deprecated names
        from bcd.config.check import nearest

        others = nearest(name, tags or timm.list_models())
        raise ConfigError(f"model.backbone={name}: timm has no network of that name{others}")
    return TimmNetwork(name, published)


@lru_cache
def _traced(name: str, size: int) -> Layout:
    known = find_timm(name)
    try:
        # The random state must not depend on whether this result is cached.
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = known._make(size).eval()
        if size != known.side:  # a border left over at that size was left over in training too
            _check_patches(getattr(network, "patch_embed", None), size)
        return trace(known._without_classifier(network), size)
    except Exception as error:
        raise ConfigError(
            f"model.input_size={size}: {name} does not accept it ({_reason(error)}); its weights "
            f"were tested with {known.side} pixels"
        ) from error


def _check_patches(layer: Any, size: int) -> None:
    """Refuses sizes at which patches leave a border over, which timm would silently ignore."""
    sides = getattr(layer, "patch_size", None) or 1
    for side in sides if isinstance(sides, Iterable) else (sides,):
        if size % side and not getattr(layer, "dynamic_img_pad", False):
            raise ValueError(f"it must be a multiple of {side}")


def _reason(error: Exception) -> str:
    return first_line(error)[:160]


class _Part(nn.Module):
    """A network with only some of its children, for methods that need no others."""

    def __init__(self, network: Any, children: Iterable[str], own: bool) -> None:
        super().__init__()
        part = copy.copy(network)
        held = {name: child for name, child in network.named_children() if name in children}
        vars(part)["_modules"] = held
        if not own:  # parameters of the network itself belong to another part
            vars(part).update(_parameters={}, _buffers={})
        self.network = part


class Start(_Part):
    """First block of a vision transformer: patch embeddings with their positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to tokens (N, T, C)."""
        tokens: Tensor = getattr(self.network, POSITIONS)(self.network.patch_embed(x))
        return tokens


class End(_Part):
    """From the output of the last layer to the input of the classifier."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps the output of `forward_features` to vectors (N, features)."""
        vectors: Tensor = self.network.forward_head(x, pre_logits=True)
        return vectors


class Whole(_Part):
    """A network that is not a plain sequence of layers, as a single block."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to vectors (N, features)."""
        maps = self.network.forward_features(x)
        vectors: Tensor = self.network.forward_head(maps, pre_logits=True)
        return vectors


def _cut(network: Any, layout: Layout) -> nn.Sequential:
    children = [name for name, _ in network.named_children()]
    links = list(layout.links)
    if not links:
        return nn.Sequential(Whole(network, children, True))
    layers: list[nn.Module] = []
    used = {path.partition(".")[0] for path in (*links, *layout.inner)}
    positions = POSITIONS in links
    if positions:
        layers.append(Start(network, {links[0], *layout.inner}, True))
        del links[:2]
    layers += [network.get_submodule(path) for path in links]
    end = End(network, [name for name in children if name not in used], not positions)
    return grouped([*layers, end])
