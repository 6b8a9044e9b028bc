"""Cache keys: everything a feature depends on besides its image. Each key has its own bank."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from bcd.config.input_views import InputView
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.data.input_views import definition
from bcd.data.matching import Match
from bcd.errors import BcdError
from bcd.models.frozen_prefix import FrozenPrefix

# Increase it whenever the code that decodes, resizes, draws views or stores changes its output.
FORMAT = 1


@dataclass(frozen=True)
class CacheKey:
    """How the features of a bank are made.

    Attributes:
        facts: Plain data; two cache keys with the same facts give the same features.
    """

    facts: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of the bank: a hash of the facts."""
        text = json.dumps(self.facts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def text(self) -> str:
        """The facts as written to the bank's folder."""
        return json.dumps(self.facts, indent=1, sort_keys=True) + "\n"


def plain_key(
    model: ModelConfig,
    prefix: FrozenPrefix,
    engine: str,
    dtype: str,
    mask: bool,
    match: Match | None = None,
) -> CacheKey:
    """Cache key for resized images; it does not depend on the seed or the augmentation.

    Args:
        model: The `model` group.
        prefix: Its weights and structure are hashed.
        engine: Label of the engine.
        dtype: Of the stored numbers.
        mask: Whether the corner with the scale bar is covered.
        match: How images of another site are matched; None for not at all.
    """
    # Torch exports the network for the other engines.
    packages = ["pillow", "opencv-python-headless", "numpy", "torch"]
    # The structure of a library's layers does not determine everything they compute.
    packages += sorted({network.library for network in model.branches() or [model]})
    facts = {
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
    if match is not None:
        facts["match"] = match.to_plain()
    return CacheKey(facts)


def input_key(plain: CacheKey, view: InputView) -> CacheKey:
    """Cache key for one input view; that of the plain one is the same in every set of views."""
    facts = {**plain.facts, "input_size": view.side}
    if not view.is_plain:
        facts["input_view"] = definition(view)
    return CacheKey(facts)


def view_key(plain: CacheKey, augment: AugmentConfig, seed: int) -> CacheKey:
    """Cache key for random views; their number does not affect any of them."""
    drawn = {
        "transforms": augment.transforms,
        "seed": seed,
        "albumentations": version("albumentations"),
        "sources": dict(sorted(_sources(augment.transforms))),
    }
    return CacheKey({**plain.facts, "augment": drawn})


def _sources(value: Any) -> Iterator[tuple[str, str]]:
    """Modules of the transforms that are not albumentations' own, with sha256 of their files.

    Includes their base classes and functions that Hydra looks up, but not what modules import.
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            named = str(value["_target_"])
            if named.startswith("hydra.utils.get_") and "path" in value:
                named = str(value["path"])
            if named.partition(".")[0] not in _VERSIONED:  # importing one takes a third of a second
                yield from _modules(get_object(named))
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _sources(item)


def _modules(target: Any) -> Iterator[tuple[str, str]]:
    for part in inspect.getmro(target) if isinstance(target, type) else (target,):
        name = str(part.__module__)
        if name.partition(".")[0] not in _VERSIONED:
            try:
                source = Path(inspect.getfile(part)).read_bytes()
            except (OSError, TypeError) as error:
                raise BcdError(
                    f"augment.transforms: {name} has no source file to identify its version"
                ) from error
            yield name, hashlib.sha256(source).hexdigest()


_VERSIONED = ("albumentations", "builtins", "abc")  # their versions are known


def prefix_hash(prefix: FrozenPrefix) -> str:
    """sha256 over a prefix's structure and every bit of its parameters and buffers."""
    digest = hashlib.sha256(repr(prefix).encode())
    named = [*prefix.named_parameters(), *prefix.named_buffers()]
    for name, tensor in sorted(named, key=lambda item: item[0]):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
