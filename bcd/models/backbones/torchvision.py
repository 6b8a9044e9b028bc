"""torchvision's networks: finds them by name, builds them and adapts published weights."""

from __future__ import annotations

import math
import re
import typing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcd.errors import ConfigError
from bcd.models.backbones.blocks import KINDS

# Networks whose weights were trained on values between -1 and 1. torchvision converts to these from
# ImageNet's normalization (`transform_input`).
_HALF = ("GoogLeNet", "Inception3")


@dataclass(frozen=True)
class Published:
    """What torchvision knows about a network without building it.

    Attributes:
        name: As torchvision registers it.
        kind: Name of its class in torchvision.
        weights: Its first published ImageNet weights, a `WeightsEnum`.
    """

    name: str
    kind: str
    weights: Any

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, for values between 0 and 1."""
        return (0.5,) * 3 if self.kind in _HALF else tuple(self.weights.transforms().mean)

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel."""
        return (0.5,) * 3 if self.kind in _HALF else tuple(self.weights.transforms().std)

    @property
    def top1(self) -> float:
        """Accuracy on ImageNet in percent."""
        return float(self.weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])

    @property
    def side(self) -> int:
        """Height and width of the images that its weights were tested with, in pixels."""
        return int(self.weights.transforms().crop_size[0])

    def check(self, size: int) -> None:
        """Checks that it accepts images of `size` x `size` pixels.

        Raises:
            ConfigError: It does not.
        """
        if self.kind == "VisionTransformer":
            patch = int(self.name.rpartition("_")[2])  # the last part of its name
            fits, wanted = size % patch == 0, f"a multiple of {patch}"
        else:
            least = max(self.weights.meta["min_size"])
            fits, wanted = size >= least, f"{least} or more"
        if not fits:
            raise ConfigError(f"model.input_size={size}: {self.name} requires {wanted} pixels")

    def make(self, size: int, device: str) -> Any:
        """Makes the network with random weights, without auxiliary classifiers.

        Args:
            size: Side of the images in pixels.
            device: `meta` saves the random initialization, which takes most of the time.
        """
        from torchvision.models import get_model

        settings: dict[str, Any] = {}
        if self.kind in _HALF:
            settings = {"aux_logits": False, "init_weights": True}
        if self.kind == "VisionTransformer":
            settings = {"image_size": size}
        # RegNet computes its widths with tensors, which have no values on meta.
        with torch.device("cpu" if self.kind == "RegNet" else device):
            return get_model(self.name, weights=None, **settings).to(device)


def published(name: str) -> Published | None:
    """Finds a network of torchvision; None where it has none of that name.

    Raises:
        ConfigError: It has one, but of a kind that cannot be cut into blocks.
    """
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    kind = typing.get_type_hints(models.get_model_builder(name))["return"].__name__
    if kind not in KINDS:
        raise ConfigError(
            f"model.backbone={name}: networks of the kind {kind} are not supported; choose one of "
            f"the kinds {', '.join(KINDS)}"
        )
    known = models.get_model_weights(name)
    first = next((w for w in known if w.name == "IMAGENET1K_V1"), next(iter(known)))
    return Published(name, kind, first)


def adapted(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Adapts a published state dict to a network that `make` built.

    Auxiliary classifiers are left out, DenseNet's old key names are renamed, and a transformer's
    position embeddings are resized to the image size.
    """
    kind = type(network).__name__
    if kind in _HALF:
        return {k: v for k, v in state.items() if not re.match(r"(AuxLogits|aux[12])\.", k)}
    if kind == "DenseNet":
        old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
        return {old.sub(r"\1\2.", k): v for k, v in state.items()}
    key = "encoder.pos_embedding"
    if kind == "VisionTransformer" and key in state:
        wanted: Any = network.get_parameter(key)
        return {**state, key: resized_positions(state[key], math.isqrt(wanted.shape[1] - 1))}
    return state


def resized_positions(table: Tensor, side: int) -> Tensor:
    """Resizes a transformer's position embeddings to a grid of another size, corners aligned.

    Args:
        table: Shape (1, 1 + n * n, features), with the class token first.
        side: Number of patches along a side.

    Returns:
        Shape (1, 1 + side * side, features); the table unchanged if its grid is not square.
    """
    before = math.isqrt(table.shape[1] - 1) if table.ndim == 3 and table.shape[1] else 0
    if before == side or before * before != table.shape[1] - 1:
        return table
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, before, before)
    grid = nn.functional.interpolate(grid, (side, side), mode="bicubic", align_corners=True)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)
