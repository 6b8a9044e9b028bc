"""The backbones: networks cut into blocks, so that any number of the last can be trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config import ModelConfig
from bcd.errors import BcdError, ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before it is built.

    Attributes:
        build: Makes its blocks, given a state dict or None for random weights. The last block
            gives (N, features, h, w).
        features: Channels that the last block gives.
        weights: Name of torchvision's ImageNet weights, empty where there are none.
    """

    build: Callable[[dict[str, Tensor] | None], nn.Sequential]
    features: int
    weights: str = ""


def build_backbone(cfg: ModelConfig) -> tuple[nn.Sequential, int]:
    """Builds a backbone with the weights that the `model` group asks for.

    Args:
        cfg: `weights` is `imagenet` (downloaded once by torchvision), a state dict's path, or None
            for random weights.

    Returns:
        Its blocks in order, and the number of channels of the last.

    Raises:
        BcdError: The weights cannot be had or do not fit; never falls back to random ones.
    """
    state = _load_weights(cfg, _spec(cfg))
    try:
        return build_blocks(cfg, state)
    except RuntimeError as error:
        raise BcdError(
            f"model.weights={cfg.weights} does not fit {cfg.backbone}: {_misfit(error)}"
        ) from error


def build_blocks(cfg: ModelConfig, state: dict[str, Tensor] | None) -> tuple[nn.Sequential, int]:
    """Builds a backbone from a state dict of its whole network, or with random weights."""
    spec = _spec(cfg)
    return spec.build(state), spec.features


def _spec(cfg: ModelConfig) -> BackboneSpec:
    if cfg.backbone in BACKBONES:
        return BACKBONES[cfg.backbone]
    from bcd.config_check import nearest

    raise ConfigError(
        f"model.backbone={cfg.backbone}: choose {', '.join(BACKBONES)}"
        f"{nearest(cfg.backbone, BACKBONES)}"
    )


def _load_weights(cfg: ModelConfig, spec: BackboneSpec) -> dict[str, Tensor] | None:
    if cfg.weights is None:
        return None
    if cfg.weights == "imagenet":
        if not spec.weights:
            raise ConfigError(
                f"model.weights=imagenet: {cfg.backbone} has none; give model.weights=null"
            )
        return _download_weights(cfg.backbone, spec.weights)
    return _read_state(Path(cfg.weights).expanduser())


def _download_weights(backbone: str, name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    weights = get_weight(name)
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except Exception as error:
        target = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)  # noqa: PTH119
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BcdError(
            f"ImageNet weights of {backbone} could not be downloaded ({reason}): fetch "
            f"{weights.url} elsewhere and put it at {target}, or give model.weights=<its path>; "
            "model.weights=null trains from random ones"
        ) from error


def _read_state(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BcdError(f"model.weights={file}: no such file (or say imagenet, or null for random)")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BcdError(f"model.weights={file}: not a PyTorch state dict") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BcdError(f"model.weights={file}: not a plain state dict of tensors")
    # Weights published in half precision would otherwise meet pictures in single.
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _misfit(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    return (lines or [str(error)])[0][:160]


def _torchvision(name: str) -> Callable[[dict[str, Tensor] | None], nn.Sequential]:
    """A network of torchvision whose convolutional part is its `features`."""

    def build(state: dict[str, Tensor] | None) -> nn.Sequential:
        from torchvision.models import get_model

        # Drawing 1000-class random weights only to overwrite them takes most of the start-up.
        with torch.device("meta") if state is not None else torch.device("cpu"):
            network: Any = get_model(name, weights=None)
        if state is not None:
            network.load_state_dict(state, strict=True, assign=True)
        blocks = network.features
        assert isinstance(blocks, nn.Sequential)
        return blocks

    return build


def _plain_cnn(state: dict[str, Tensor] | None) -> nn.Sequential:
    """A small plain CNN for training from scratch; a block is conv, BatchNorm, ReLU, pool."""

    def block(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        # Only the first block strides; pooling after full-size convolutions learns far faster.
        pooling = nn.MaxPool2d(2) if stride == 1 else nn.Identity()
        return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True), pooling)

    blocks = nn.Sequential(
        block(3, 16, 5, 2), block(16, 32, 3, 1), block(32, 64, 3, 1), block(64, 128, 3, 1)
    )
    if state is not None:
        blocks.load_state_dict(state, strict=True)
    return blocks


BACKBONES: dict[str, BackboneSpec] = {
    "mobilenet_v2": BackboneSpec(
        _torchvision("mobilenet_v2"), 1280, "MobileNet_V2_Weights.IMAGENET1K_V1"
    ),
    "efficientnet_b0": BackboneSpec(
        _torchvision("efficientnet_b0"), 1280, "EfficientNet_B0_Weights.IMAGENET1K_V1"
    ),
    "cnn": BackboneSpec(_plain_cnn, 128),
}
