"""torchvision's networks by name: what is known of each, how it is made, how weights fit it."""

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

# Networks whose weights were trained on values between -1 and 1; torchvision itself computes these
# from what the others want (`transform_input`).
_HALF = ("GoogLeNet", "Inception3")


@dataclass(frozen=True)
class Published:
    """What torchvision knows of a network without building it.

    Attributes:
        name: As torchvision registers it.
        kind: Name of its class.
        weights: Its ImageNet weights, a `WeightsEnum`: the first that were published.
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
        """Of the images that its weights were tested with, in pixels."""
        return int(self.weights.transforms().crop_size[0])

    def check(self, size: int) -> None:
        """Makes sure that it can work on images of that many pixels a side.

        Raises:
            ConfigError: It cannot.
        """
        if self.kind == "VisionTransformer":
            patch = int(self.name.rpartition("_")[2])  # which ends its name
            fits, wanted = size % patch == 0, f"a multiple of {patch}"
        else:
            least = max(self.weights.meta["min_size"])
            fits, wanted = size >= least, f"{least} or more"
        if not fits:
            raise ConfigError(f"model.input_size={size}: {self.name} wants {wanted} pixels")

    def make(self, size: int, device: str) -> Any:
        """Makes the network with random weights, without auxiliary classifiers.

        Args:
            size: Side of the images in pixels.
            device: On `meta` nothing is drawn, which takes most of the time otherwise.
        """
        from torchvision.models import get_model

        settings: dict[str, Any] = {}
        if self.kind in _HALF:
            settings = {"aux_logits": False, "init_weights": True}
        if self.kind == "VisionTransformer":
            settings = {"image_size": size}
        # RegNet reckons its widths with tensors, for which there are no numbers on meta.
        with torch.device("cpu" if self.kind == "RegNet" else device):
            return get_model(self.name, weights=None, **settings).to(device)


def published(name: str) -> Published | None:
    """Finds a network of torchvision; None where it has none of that name.

    Raises:
        ConfigError: It has one, but of a kind that cannot be cut into blocks here.
    """
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    kind = typing.get_type_hints(models.get_model_builder(name))["return"].__name__
    if kind not in KINDS:
        raise ConfigError(
            f"model.backbone={name}: a {kind} cannot be cut into blocks here; choose one of the "
            f"kinds {', '.join(KINDS)}"
        )
    known = models.get_model_weights(name)
    first = next((w for w in known if w.name == "IMAGENET1K_V1"), next(iter(known)))
    return Published(name, kind, first)


def adapted(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Brings a published state dict to the form that a network, as made here, wants.

    Auxiliary classifiers are left out, DenseNet's first key names become today's, and a
    transformer's table of positions gets the size that the images want.
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
    """Stretches a transformer's positions over a grid of another size, corner to corner.

    Args:
        table: Shape (1, 1 + n * n, features), the class token's first.
        side: Patches a side.

    Returns:
        Shape (1, 1 + side * side, features); the table as it is if it is of no square grid.
    """
    before = math.isqrt(table.shape[1] - 1) if table.ndim == 3 and table.shape[1] else 0
    if before == side or before * before != table.shape[1] - 1:
        return table
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, before, before)
    grid = nn.functional.interpolate(grid, (side, side), mode="bicubic", align_corners=True)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)
