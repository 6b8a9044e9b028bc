"""Checkpoints that describe themselves: plain data with a card."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.data.splits.split import sha256_of
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy
from bcd.models.backbones.build import empty_backbone
from bcd.models.network import SmearNetwork
from bcd.run_folder import is_sweep, read_winner, versions
from bcd.storage import replacing, typed_path

CARD_VERSION = 4


@dataclass
class Card:
    """What a checkpoint says of itself.

    Attributes:
        classes: Class names; index i of the output is `classes[i]`.
        benign: Index of the class that is not cancer, None where there is none.
        input_size: Side of the images in pixels.
        mean: Per channel, for values between 0 and 1; RGB.
        std: Per channel.
        interpolation: How images are resized.
        mask_scale_bar: Whether the corner with the scale bar is covered.
        data_root: Where the images of the run were.
        split: `<sha256> <class>` of the images of train, val and test.
        fingerprint: sha256 over these images and their classes.
        config: The resolved configuration of the run.
        versions: Of Python and the packages that matter.
        val_metrics: Figures on the val part at the epoch that was saved.
        groups: Cluster of images, by sha256, as `Split.clusters`; not of those of their own.
        policy: Temperature, thresholds, what they promise and what training images are like, as
            `DecisionPolicy` writes it; None before the end of training, when it is decided on val.
        version: Of the card's form.
    """

    classes: list[str]
    benign: int | None
    input_size: int
    data_root: str
    split: dict[str, list[str]]
    fingerprint: str
    config: dict[str, Any]
    mean: list[float]
    std: list[float]
    interpolation: str = "area when shrinking, bilinear when enlarging"
    mask_scale_bar: bool = False
    versions: dict[str, str] = field(default_factory=lambda: versions())
    val_metrics: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    policy: dict[str, Any] | None = None
    version: int = CARD_VERSION

    def sha256s(self, *parts: str) -> set[str]:
        """Of the images of some parts of the split; of all where none is named."""
        return {sha256_of(one) for part in parts or self.split for one in self.split[part]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it goes into the checkpoint."""
        return asdict(self)


def find_checkpoint(text: str) -> Path:
    """Finds the checkpoint that `ckpt=` means.

    Args:
        text: A checkpoint, a run folder (its best.ckpt), a sweep (its winner's) or a folder of
            runs (the newest one's; where that is a trial of a sweep, the sweep's winner's).

    Raises:
        BcdError: There is none, or a sweep that does not say which trial won.
    """
    path = typed_path(text).absolute()
    if path.is_file():
        return path
    found = list(path.rglob("best.ckpt")) if path.is_dir() else []
    if not found:
        raise BcdError(f"ckpt={text}: no checkpoint there; train.py writes checkpoints/best.ckpt")
    newest = max(found, key=lambda file: file.stat().st_mtime)
    sweep = newest.parent.parent.parent  # if it is a trial's
    if not sweep.is_relative_to(path) or not is_sweep(sweep):
        return newest
    checkpoint = read_winner(sweep).checkpoint
    if not checkpoint.is_file():
        raise BcdError(f"ckpt={text}: the winner of the sweep has no checkpoint there")
    return checkpoint


def read_content(file: Path) -> dict[str, Any]:
    """What a checkpoint holds, as plain data; runs no code from the file."""
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def network_state(content: dict[str, Any]) -> dict[str, Any]:
    """The state dict of the network alone."""
    prefix = "network."
    state = content["state_dict"].items()
    return {name[len(prefix) :]: value for name, value in state if name.startswith(prefix)}


def save_content(content: dict[str, Any], file: Path) -> None:
    """Writes a checkpoint in one move.

    Raises:
        OSError: The disk is full, or not to be written; what stood at `file` still stands there.
    """
    # Into memory first: where torch writes to the disk itself, it hides what the disk says.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(file) as stream:
        stream.write(buffer.getbuffer())


def write_policy(file: Path, content: dict[str, Any], policy: dict[str, Any]) -> None:
    """Writes a checkpoint again with what was decided on val in its card, in one move."""
    content["card"]["policy"] = policy
    save_content(content, file)


def load_checkpoint(file: Path, uncalibrated: bool = False) -> tuple[SmearNetwork, Card]:
    """Loads a network in eval mode and its card; runs no code from the file.

    Args:
        file: The checkpoint.
        uncalibrated: Whether one without a decision policy will do, whose answers were never
            calibrated.

    Raises:
        BcdError: Not a checkpoint of this project, of another version of its card, or without a
            policy.
    """
    try:
        content = read_content(file)
        values = dict(content["card"])
        state = network_state(content)
    except Exception as error:
        raise BcdError(f"ckpt={file}: not a checkpoint that train.py wrote") from error
    if values.get("version") != CARD_VERSION:
        raise BcdError(
            f"ckpt={file}: its card has version {values.get('version')}, not {CARD_VERSION}"
        )
    try:
        card = Card(**{f.name: values[f.name] for f in fields(Card)})
        model = ModelConfig(**card.config["model"])
        backbone = replace(empty_backbone(model), mean=tuple(card.mean), std=tuple(card.std))
        head = HeadConfig(**card.config["head"])
        network = SmearNetwork(backbone, len(card.classes), model, head)
        network.load_state_dict(state, strict=True, assign=True)
        DecisionPolicy.from_plain(card.policy)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BcdError(
            f"ckpt={file}: not a checkpoint that train.py wrote (card and weights disagree)"
        ) from error
    if card.policy is None and not uncalibrated:
        raise BcdError(
            f"ckpt={file}: uncalibrated: nothing was decided on val about its answers (its run did "
            "not end, or it is not the best epoch's): give best.ckpt of a run that ended, or "
            "uncalibrated=true to have every image answered and referred"
        )
    return network.eval().to(memory_format=torch.channels_last), card
