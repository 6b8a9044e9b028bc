"""The backbone of another run as the weights that a run starts from (transfer learning)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcd.config.schema import ModelConfig
from bcd.errors import BcdError
from bcd.models.backbones.weights import misfit, plain_state, read_weights, weights_file
from bcd.models.checkpoint_content import check_version, network_state

_PARTS = ("prefix.blocks.", "trunk.")  # of the network's state dict; both keep a block's number


def is_checkpoint(content: Any) -> bool:
    """Whether what `read_weights` returned is a checkpoint of this project."""
    return isinstance(content, dict) and isinstance(content.get("card"), dict)


def load_run(
    blocks: nn.Sequential,
    mean: Sequence[float],
    std: Sequence[float],
    cfg: ModelConfig,
    content: Mapping[str, Any],
) -> None:
    """Loads the backbone of a run's checkpoint; its head, and so its classes, do not matter.

    Args:
        blocks: All blocks of the backbone; their tensors are replaced.
        mean: The backbone's normalization.
        std: Likewise.
        cfg: The configuration of this backbone.
        content: The checkpoint's content.

    Raises:
        BcdError: The run has another architecture, input size or normalization, its weights are
            not finite, or it is not a checkpoint of this version.
    """
    given = f"model.weights={cfg.weights}"
    card = content["card"]
    check_version(card, given)
    try:
        source = ModelConfig(**card["config"]["model"])
        size, own = card["input_size"], (list(card["mean"]), list(card["std"]))
        state = _backbone_state(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BcdError(f"{given}: not a checkpoint that train.py wrote") from error
    if source.title != cfg.title:
        raise BcdError(f"{given}: that run has the backbone {source.title}, not {cfg.title}")
    if size != cfg.input_size:
        raise BcdError(
            f"{given}: that run has images of {size} pixels, not {cfg.input_size}; set "
            f"model.input_size={size}"
        )
    if own != (list(mean), list(std)):
        raise BcdError(
            f"{given}: that run normalizes with mean {own[0]} and std {own[1]}, not {list(mean)} "
            f"and {list(std)}"
        )
    state = plain_state(state, str(cfg.weights))
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise BcdError(f"{given}: its weights are not finite; perhaps training diverged")
    try:
        blocks.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise BcdError(f"{given} does not fit {cfg.title}: {misfit(error)}") from error


def _backbone_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the blocks, by block, from that of the network."""
    state = network_state(content).items()
    return {
        name[len(part) :]: value
        for part in _PARTS
        for name, value in state
        if name.startswith(part)
    }


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of a backbone came from.

    Attributes:
        given: What `model.weights` says.
        file: The file; empty if it is none.
        sha256: Of the file; empty if it is none.
        images: sha256 of the images that its weights were trained or chosen on, also by the runs
            that it started from; empty if unknown.
    """

    given: str | None
    file: str = ""
    sha256: str = ""
    images: frozenset[str] = frozenset()

    def to_plain(self) -> dict[str, str | None]:
        """What `run.json` records."""
        return {"given": self.given, "file": self.file, "sha256": self.sha256}


def weights_sources(cfg: ModelConfig) -> list[WeightsSource]:
    """Where the weights of each network come from.

    Raises:
        BcdError: A file cannot be read.
    """
    return [_source(branch.weights) for branch in cfg.branches() or [cfg]]


def _source(weights: Any) -> WeightsSource:
    if weights is None or weights == "imagenet":
        return WeightsSource(weights)
    content, file = read_weights(weights), weights_file(weights).absolute()
    images: frozenset[str] = frozenset()
    if is_checkpoint(content):
        given = f"model.weights={weights}"
        check_version(content["card"], given)
        try:
            images = _images(content["card"])
        except (LookupError, TypeError, AttributeError) as error:
            raise BcdError(f"{given}: not a checkpoint that train.py wrote") from error
    return WeightsSource(weights, str(file), hashlib.sha256(file.read_bytes()).hexdigest(), images)


def _images(card: Mapping[str, Any]) -> frozenset[str]:
    images = set(card["pretrained_on"])
    if card["config"]["model"]["unfreeze"] != 0:  # else the run left the backbone as it was
        listed = [*card["split"]["train"], *card["split"]["val"]]
        images.update(recorded.partition(" ")[0] for recorded in listed)
    return frozenset(images)
