"""The backbones: networks cut into blocks, so that any number of the last can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bcd.config import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.models.blocks import cut
from bcd.models.published import Published, adapted, published
from bcd.models.weights import download_state, misfit, read_state

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Those that have a file in conf/model; others of torchvision serve too.
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
        features: How many numbers a picture comes to after pooling.
        mean: What is taken off each channel, of values between 0 and 1.
        std: By what it is divided then.
    """

    blocks: nn.Sequential
    features: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def build_backbone(cfg: ModelConfig) -> Backbone:
    """Builds a backbone with the weights that the `model` group asks for.

    Args:
        cfg: `weights` is `imagenet` (downloaded once by torchvision), a path of the whole
            network's state dict, or None for random weights.

    Raises:
        BcdError: The weights cannot be had or do not fit; never falls back to random ones.
    """
    known = find_backbone(cfg)
    state = _load_weights(cfg, known)
    try:
        return _assemble(cfg, known, state, "cpu" if state is None else "meta")
    except RuntimeError as error:
        raise BcdError(
            f"model.weights={cfg.weights} does not fit {cfg.backbone}: {misfit(error)}"
        ) from error


def empty_backbone(cfg: ModelConfig) -> Backbone:
    """Builds a backbone on the meta device: its structure, without numbers."""
    return _assemble(cfg, find_backbone(cfg), None, "meta")


def find_backbone(cfg: ModelConfig) -> Published | None:
    """Finds what is known of the backbone that is asked for; None for the project's own.

    Raises:
        ConfigError: There is none of that name, it cannot be cut into blocks, or pictures of
            `input_size` are none for it.
    """
    name = cfg.backbone
    known = None if name == "cnn" else published(name)
    if known is None and name != "cnn":
        from torchvision import models

        from bcd.config_check import nearest

        others = models.list_models(module=models)
        raise ConfigError(
            f"model.backbone={name}: choose {', '.join(BACKBONES)}, or another classifier of "
            f"torchvision{nearest(name, [*BACKBONES, *others])}"
        )
    if known is not None:
        known.check(cfg.input_size)
    return known


def normalisation(cfg: ModelConfig) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, per channel, that the backbone's weights want."""
    known = find_backbone(cfg)
    if known is None:
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return list(known.mean), list(known.std)


def _load_weights(cfg: ModelConfig, known: Published | None) -> dict[str, Tensor] | None:
    if cfg.weights is None:
        return None
    if cfg.weights != "imagenet":
        return read_state(Path(cfg.weights).expanduser())
    if known is None:
        raise ConfigError(
            f"model.weights=imagenet: {cfg.backbone} has none; give model.weights=null"
        )
    return download_state(cfg.backbone, known.weights)


def _assemble(
    cfg: ModelConfig, known: Published | None, state: dict[str, Tensor] | None, device: str
) -> Backbone:
    network: Any = _plain_cnn().to(device) if known is None else known.make(cfg.input_size, device)
    if state is not None:
        network.load_state_dict(adapted(state, network), strict=True, assign=True)
    if known is None:
        return Backbone(network, _CNN_FEATURES)
    return Backbone(*cut(network), known.mean, known.std)


_CNN_FEATURES = 128


def _plain_cnn() -> nn.Sequential:
    """A small plain CNN for training from scratch; a block is conv, BatchNorm, ReLU, pool."""

    def block(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        # Only the first block strides; pooling after full-size convolutions learns far faster.
        pooling = nn.MaxPool2d(2) if stride == 1 else nn.Identity()
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True), pooling)

    return nn.Sequential(
        block(3, 16, 5, 2),
        block(16, 32, 3, 1),
        block(32, 64, 3, 1),
        block(64, _CNN_FEATURES, 3, 1),
    )
