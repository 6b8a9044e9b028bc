"""Recipes: all that a feature depends on besides its picture. Another recipe, another bank."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from bcd.config import AugmentConfig, ModelConfig
from bcd.models.network import FrozenPrefix

# Raised whenever the code that decodes, resizes, draws views or stores changes its output.
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """How the features of a bank are made.

    Attributes:
        facts: Plain data; two recipes with the same facts give the same features.
    """

    facts: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of the bank: a hash of the facts."""
        text = json.dumps(self.facts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def text(self) -> str:
        """The facts as they stand in the bank's folder."""
        return json.dumps(self.facts, indent=1, sort_keys=True) + "\n"


def plain_recipe(
    model: ModelConfig, prefix: FrozenPrefix, engine: str, dtype: str, mask: bool
) -> Recipe:
    """Recipe for pictures that are merely resized; it depends on no seed and no augmentation.

    Args:
        model: The `model` group.
        prefix: Its weights and structure are hashed.
        engine: Label of the engine.
        dtype: Of the stored numbers.
        mask: Whether the corner with the scale bar is covered.
    """
    packages = ["pillow", "opencv-python-headless", "numpy"]
    if any(network.library == "timm" for network in model.branches() or [model]):
        packages.append("timm")  # what its layers do is not all seen in their structure
    return Recipe(
        {
            "format": FORMAT,
            "backbone": model.title,
            "blocks": len(prefix.blocks),
            "pooled": prefix.pooled,
            "prefix": prefix_hash(prefix),
            "input_size": model.input_size,
            "mask_scale_bar": mask,
            "engine": engine,
            "dtype": dtype,
            "versions": {name: version(name) for name in packages},
        }
    )


def view_recipe(plain: Recipe, augment: AugmentConfig, seed: int) -> Recipe:
    """Recipe for views drawn with a seed; how many there are changes none of them."""
    drawn = {
        "transforms": augment.transforms,
        "seed": seed,
        "albumentations": version("albumentations"),
    }
    return Recipe({**plain.facts, "augment": drawn})


def prefix_hash(prefix: FrozenPrefix) -> str:
    """sha256 over a prefix's structure and every bit of its parameters and buffers."""
    digest = hashlib.sha256(repr(prefix).encode())
    named = [*prefix.named_parameters(), *prefix.named_buffers()]
    for name, tensor in sorted(named, key=lambda item: item[0]):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
