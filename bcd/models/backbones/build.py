"""Backbones: networks cut into blocks, so that any number of last blocks can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.input_views import CELLS
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.models.backbones.blocks import cut
from bcd.models.backbones.fusion import Branch, FeatureFusion
from bcd.models.backbones.run_weights import is_checkpoint, load_run
from bcd.models.backbones.timm import TimmNetwork, find_timm
from bcd.models.backbones.torchvision import Published, adapted, published
from bcd.models.backbones.weights import (
    download_state,
    load_needed,
    misfit,
    plain_state,
    read_weights,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Those with a file in conf/model; other classifiers of torchvision work as well.
BACKBONES = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "alexnet",
    "inception_v3",
    "resnet50",
    "densenet201",
    "convnext_tiny",
    "vit_b_16",
    "cnn",
)


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, in blocks.

    Attributes:
        blocks: In order; the last gives maps (N, features, h, w) or vectors (N, features).
        features: Length of the feature vector after pooling.
        mean: Subtracted from each channel, for values between 0 and 1.
        std: Divides each channel afterwards.
    """

    blocks: nn.Sequential
    features: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def build_backbone(cfg: ModelConfig) -> Backbone:
    """Builds a backbone with the weights that the `model` group asks for.

    Args:
        cfg: `weights` is `imagenet` (downloaded once by the network's library), a path of the
            whole network's state dict, a run folder or checkpoint of this project whose backbone
            is taken, or None for random weights; for several networks side by side a list of these.

    Raises:
        BcdError: The weights are not available or do not fit; there is no fallback to random ones.
    """
    if branches := cfg.branches():
        return _fuse([build_backbone(branch) for branch in branches])
    known, state = find_backbone(cfg), None
    assert not isinstance(cfg.weights, list)
    if cfg.weights is not None and cfg.weights != "imagenet":
        content = read_weights(cfg.weights)
        if is_checkpoint(content):
            empty = empty_backbone(cfg)
            load_run(empty.blocks, empty.mean, empty.std, cfg, content)
            return empty
        state = plain_state(content, cfg.weights)
    if isinstance(known, TimmNetwork):
        return Backbone(*known.build(cfg.weights, state, cfg.input_size), known.mean, known.std)
    if cfg.weights == "imagenet":
        state = _download(cfg.backbone, known)
    try:
        return _assemble(cfg, known, state, "cpu" if state is None else "meta")
    except RuntimeError as error:
        raise BcdError(
            f"model.weights={cfg.weights} does not fit {cfg.backbone}: {misfit(error)}"
        ) from error


def empty_backbone(cfg: ModelConfig) -> Backbone:
    """Builds a backbone without weights, on the meta device where possible."""
    if branches := cfg.branches():
        return _fuse([empty_backbone(branch) for branch in branches])
    known = find_backbone(cfg)
    if isinstance(known, TimmNetwork):
        return Backbone(*known.empty(cfg.input_size), known.mean, known.std)
    return _assemble(cfg, known, None, "meta")


def check_backbone(cfg: ModelConfig) -> None:
    """Checks that the networks exist and accept images of `input_size` and of every input view.

    Raises:
        ConfigError: As `find_backbone`, or a view has a side that a network does not accept.
    """
    for branch in cfg.branches() or [cfg]:
        find_backbone(branch)
    for name, view in zip(cfg.views, cfg.input_views(), strict=True):
        if view.side != cfg.input_size:
            cells = view.roi == CELLS
            _check_side(cfg, "data.roi=cells" if cells else f"model.views: {name}", view.side)


def _check_side(cfg: ModelConfig, name: str, side: int) -> None:
    """Checks that a network made for `input_size` accepts another side, without computing."""
    blocks = empty_backbone(cfg).blocks.eval()
    device = next(blocks.parameters()).device
    try:
        with torch.no_grad():
            blocks(torch.empty(1, 3, side, side, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{name}: {cfg.title} with model.input_size={cfg.input_size} does not "
            f"accept images of {side} pixels"
        ) from error


def find_backbone(cfg: ModelConfig) -> Published | TimmNetwork | None:
    """Finds a single backbone in its library; None for the project's own network.

    Raises:
        ConfigError: There is none of that name, it cannot be cut into blocks, it does not accept
            images of `input_size`, or its library is not installed.
    """
    name = cfg.backbone
    known: Published | TimmNetwork | None = None
    if cfg.library == "timm":
        known = find_timm(name)
    elif name != "cnn":
        known = published(name)
        if known is None:
            from torchvision import models

            from bcd.config.check import nearest

            others = models.list_models(module=models)
            raise ConfigError(
                f"model.backbone={name}: choose {', '.join(BACKBONES)}, or another classifier of "
                f"torchvision{nearest(name, [*BACKBONES, *others])}"
            )
    if known is not None:
        known.check(cfg.input_size)
    return known


def normalization(cfg: ModelConfig) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, per channel, that the backbone's weights require."""
    if cfg.backbones is not None:  # each branch has its own
        return list(FeatureFusion.MEAN), list(FeatureFusion.STD)
    known = find_backbone(cfg)
    if known is None:
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return list(known.mean), list(known.std)


def _fuse(backbones: Sequence[Backbone]) -> Backbone:
    branches = [Branch(b.blocks, b.mean, b.std) for b in backbones]
    features = sum(b.features for b in backbones)
    blocks = nn.Sequential(FeatureFusion(branches))
    return Backbone(blocks, features, FeatureFusion.MEAN, FeatureFusion.STD)


def _download(name: str, known: Published | None) -> dict[str, Tensor]:
    if known is None:
        raise ConfigError(f"model.weights=imagenet: {name} has none; give model.weights=null")
    return download_state(name, known.weights)


def _assemble(
    cfg: ModelConfig, known: Published | None, state: dict[str, Tensor] | None, device: str
) -> Backbone:
    network: Any = _plain_cnn().to(device) if known is None else known.make(cfg.input_size, device)
    if state is not None:
        needed = network if known is None else cut(network)[0]
        load_needed(network, needed, adapted(state, network))
    if known is None:
        return Backbone(network, _CNN_FEATURES)
    return Backbone(*cut(network), known.mean, known.std)


_CNN_FEATURES = 128


def _plain_cnn() -> nn.Sequential:
    """A small plain CNN for training from scratch; a block is conv, BatchNorm, ReLU, pool."""

    def block(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        # Only the first block has a stride; pooling after full-size convolutions trains far faster.
        pooling = nn.MaxPool2d(2) if stride == 1 else nn.Identity()
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True), pooling)

    return nn.Sequential(
        block(3, 16, 5, 2),
        block(16, 32, 3, 1),
        block(32, 64, 3, 1),
        block(64, _CNN_FEATURES, 3, 1),
    )
