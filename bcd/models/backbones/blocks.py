"""Cuts torchvision's networks into blocks that compute the input of their classifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def cut(network: Any) -> tuple[nn.Sequential, int]:
    """Cuts a network of one of the `KINDS` into blocks, without its classifier.

    Args:
        network: The network; the blocks share its modules.

    Returns:
        Blocks to be run in sequence, and the number of features. The last block returns maps
        (N, features, h, w), for global average pooling, or vectors (N, features).
    """
    kind = type(network).__name__
    return grouped(KINDS[kind](network)), _FEATURES.get(kind) or _features_of(network)


def grouped(layers: Iterable[nn.Module]) -> nn.Sequential:
    """Groups layers into blocks: norms and layers without weights join the block before."""
    blocks: list[list[nn.Module]] = []
    for layer in layers:
        if blocks and not _has_weights(layer):
            blocks[-1].append(layer)
        else:
            blocks.append([layer])
    return nn.Sequential(*(b[0] if len(b) == 1 else nn.Sequential(*b) for b in blocks))


def _has_weights(layer: nn.Module) -> bool:
    parts = (part for part in layer.modules() if not isinstance(part, _NORMS))
    return any(True for part in parts for _ in part.parameters(recurse=False))


_NORMS = (nn.BatchNorm2d, nn.LayerNorm)


def pool(x: Tensor) -> Tensor:
    """Global average pooling: (N, C, h, w) to (N, C); vectors (N, C) stay as they are."""
    return x.mean((2, 3)) if x.ndim == 4 else x


class Tokens(nn.Module):
    """First block of a vision transformer: patches and class token with their positions.

    Args:
        network: Its projection, class token and position embeddings are used.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.projection = network.conv_proj
        self.class_token = network.class_token
        self.positions = network.encoder.pos_embedding

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to tokens (N, 1 + patches, features)."""
        patches = self.projection(x).flatten(2).transpose(1, 2)
        first = self.class_token.expand(x.shape[0], -1, -1)
        tokens: Tensor = torch.cat([first, patches], 1) + self.positions
        return tokens


class ClassToken(nn.Module):
    """Last layer of a vision transformer: (N, tokens, features) to the first, (N, features)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the class token."""
        return x[:, 0]


def _features(network: Any) -> list[nn.Module]:
    return [*network.features]


def _dense(network: Any) -> list[nn.Module]:
    return [*network.features, nn.ReLU(inplace=True)]


def _convnext(network: Any) -> list[nn.Module]:
    # Its last norm follows the pooling and does not commute with it.
    norm, flatten = network.classifier[:2]
    return [*network.features, network.avgpool, norm, flatten]


def _children(network: Any) -> list[nn.Module]:
    """The layers in order up to the pooling, without auxiliary classifiers."""
    ends = ("avgpool", "dropout", "fc", "AuxLogits", "aux1", "aux2")
    return [layer for name, layer in network.named_children() if name not in ends]


def _regnet(network: Any) -> list[nn.Module]:
    return [network.stem, *network.trunk_output]


def _transformer(network: Any) -> list[nn.Module]:
    encoder = network.encoder
    return [Tokens(network), *encoder.layers, encoder.ln, ClassToken()]


# By the class name in torchvision, so that importing this module does not import torchvision.
KINDS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "AlexNet": _features,
    "ConvNeXt": _convnext,
    "DenseNet": _dense,
    "EfficientNet": _features,
    "GoogLeNet": _children,
    "Inception3": _children,
    "MobileNetV2": _features,
    "MobileNetV3": _features,
    "RegNet": _regnet,
    "ResNet": _children,
    "ShuffleNetV2": _children,
    "SqueezeNet": _features,
    "VGG": _features,
    "VisionTransformer": _transformer,
}

# For classifiers that do not begin with a linear layer on pooled features.
_FEATURES = {"AlexNet": 256, "SqueezeNet": 512, "VGG": 512}


def _features_of(network: Any) -> int:
    head = next(getattr(network, n) for n in ("classifier", "fc", "heads") if hasattr(network, n))
    return next(int(m.in_features) for m in head.modules() if isinstance(m, nn.Linear))
