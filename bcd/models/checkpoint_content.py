"""The content of a checkpoint file as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bcd.errors import BcdError

CARD_VERSION = 9


def read_content(file: Path | BinaryIO) -> dict[str, Any]:
    """The content of a checkpoint as plain data; runs no code from the file."""
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def network_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of the network alone."""
    prefix = "network."
    state = content["state_dict"].items()
    return {name[len(prefix) :]: value for name, value in state if name.startswith(prefix)}


def check_version(card: Mapping[str, Any], given: str) -> None:
    """Refuses cards of another version.

    Args:
        card: As the checkpoint stores it.
        given: The setting that names the checkpoint, such as `ckpt=a.ckpt`.

    Raises:
        BcdError: The card has another version.
    """
    if card.get("version") != CARD_VERSION:
        raise BcdError(f"{given}: its card has version {card.get('version')}, not {CARD_VERSION}")
