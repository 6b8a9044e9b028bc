"""timm's networks by name: what is known of each, how it is made and cut into blocks."""

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
from bcd.models.backbones.tracing import POSITIONS, Layout, watch
from bcd.models.backbones.weights import misfit, read_state
from bcd.storage import typed_path


@dataclass(frozen=True)
class TimmNetwork:
    """What timm knows of a network without building it.

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
        """Unknown: no accuracies come with timm."""
        return

    @property
    def side(self) -> int:
        """Of the images that its weights were tested with, in pixels."""
        return int((self.published.test_input_size or self.published.input_size)[-1])

    def check(self, size: int) -> None:
        """Makes sure that it can work on images of that many pixels a side.

        Raises:
            ConfigError: It cannot.
        """
        self._layout(size)

    def build(self, weights: str | None, size: int) -> tuple[nn.Sequential, int]:
        """Builds it with weights, in blocks.

        Args:
            weights: `imagenet`, a path of a state dict, or None for random ones.
            size: Side of the images in pixels.

        Returns:
            Blocks to be run one after the other, of which the last gives maps or vectors, and the
            number of features.

        Raises:
            BcdError: The weights cannot be had or do not fit.
        """
        layout = self._layout(size)
        if weights is None:
            network = self._make(size)
        elif weights == "imagenet":
            network = self._download(size)
        else:
            network = self._fill(size, weights)
        return _cut(self._without_classifier(network), layout), layout.features

    def empty(self, size: int) -> tuple[nn.Sequential, int]:
        """The same blocks without numbers, on the meta device where nothing speaks against it."""
        layout = self._layout(size)
        with torch.device("meta"):
            network = self._make(size)
        # What is in no state dict would stay without numbers.
        if any(module._non_persistent_buffers_set for module in network.modules()):
            network = self._make(size)
        return _cut(self._without_classifier(network), layout), layout.features

    def _layout(self, size: int) -> Layout:
        return _watched(self.name, size)

    def _make(self, size: int, **settings: Any) -> Any:
        import timm

        if self.published.fixed_input_size:
            settings["img_size"] = size
        return timm.create_model(self.name, **settings)

    def _download(self, size: int) -> Any:
        if not self.published.has_weights:
            raise ConfigError(
                f"model.weights=imagenet: timm has none for {self.name}; give model.weights=null"
            )
        # It says each time that it tries again; what came of it is told below.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            return self._make(size, pretrained=True)
        except Exception as error:
            raise BcdError(
                f"ImageNet weights of {self.name} could not be downloaded ({_reason(error)}): "
                f"fetch {self._address()} elsewhere and give model.weights=<its path>; "
                "model.weights=null trains from random ones"
            ) from error

    def _address(self) -> str:
        """Where its weights are published."""
        from huggingface_hub import hf_hub_url

        if self.published.hf_hub_id is None:
            return str(self.published.url)
        name = self.published.hf_hub_filename or "model.safetensors"
        return hf_hub_url(self.published.hf_hub_id, name)

    def _fill(self, size: int, weights: str) -> Any:
        state = read_state(typed_path(weights))
        try:
            # Through timm, which knows older forms of its state dicts, and stretches positions.
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
    """Finds a network of timm by its name, which may end in the tag of its weights.

    Raises:
        ConfigError: timm is not installed, or has none of that name.
    """
    if find_spec("timm") is None:
        raise ConfigError(f"model.backbone={name} is a network of timm: pip install timm")
    import timm

    plain, _, tag = name.partition(".")
    tags = timm.list_pretrained(f"{plain}.*") if tag else []
    known = timm.is_model(plain) and (not tag or name in tags)
    published = timm.get_pretrained_cfg(name) if known else None
    if published is None:  # also of names that timm merely still understands
        from bcd.config.check import nearest

        others = nearest(name, tags or timm.list_models())
        raise ConfigError(f"model.backbone={name}: timm has no network of that name{others}")
    return TimmNetwork(name, published)


@lru_cache
def _watched(name: str, size: int) -> Layout:
    known = find_timm(name)
    try:
        # Drawn numbers must not depend on whether this was asked before.
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = known._make(size).eval()
        if size != known.side:  # whatever that leaves over was left over in training too
            _check_patches(getattr(network, "patch_embed", None), size)
        return watch(known._without_classifier(network), size)
    except Exception as error:
        raise ConfigError(
            f"model.input_size={size}: {name} cannot work on that ({_reason(error)}); its weights "
            f"were tested with {known.side} pixels"
        ) from error


def _check_patches(layer: Any, size: int) -> None:
    """Refuses images of which patches would leave a border over, without a word from timm."""
    sides = getattr(layer, "patch_size", None) or 1
    for side in sides if isinstance(sides, Iterable) else (sides,):
        if size % side and not getattr(layer, "dynamic_img_pad", False):
            raise ValueError(f"a multiple of {side} is wanted")


def _reason(error: Exception) -> str:
    return first_line(error)[:160]


class _Part(nn.Module):
    """Some of a network's children, for the methods of it that need no others."""

    def __init__(self, network: Any, children: Iterable[str], own: bool) -> None:
        super().__init__()
        part = copy.copy(network)
        held = {name: child for name, child in network.named_children() if name in children}
        vars(part)["_modules"] = held
        if not own:  # parameters that are the network's own belong to another part
            vars(part).update(_parameters={}, _buffers={})
        self.network = part


class Start(_Part):
    """First block of a vision transformer: patches, each with its position."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to tokens (N, T, C)."""
        tokens: Tensor = getattr(self.network, POSITIONS)(self.network.patch_embed(x))
        return tokens


class End(_Part):
    """From the last layer's output to what the classifier would be given."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps what `forward_features` gives to vectors (N, features)."""
        vectors: Tensor = self.network.forward_head(x, pre_logits=True)
        return vectors


class Whole(_Part):
    """A network that is no plain sequence, in one block."""

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
