"""What an exported file says about itself; `bcd.inference.exported` reads it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import bcd
from bcd.config.input_views import InputView
from bcd.export.module import ExportModule
from bcd.export.policy import REASONS
from bcd.inference.checkpoint import Card

FORMAT = 1  # increase it when older programs would misread the file

# Lists with an entry for each image, which an answer does not depend on.
_OF_IMAGES = ("split", "groups", "pretrained_on")


def describe(
    card: Card, module: ExportModule, precision: str, int8: dict[str, Any] | None = None
) -> dict[str, str]:
    """The metadata of an exported file.

    Args:
        card: Of the checkpoint.
        module: What is exported.
        precision: `float32`, `float16` or `int8`.
        int8: How it was quantized, and figures before and after.

    Returns:
        `bcd`, what a program needs to use the file, and `card`, the checkpoint's card without lists
        of images and without tensors; both are JSON in ASCII.
    """
    plain = {name: value for name, value in card.to_dict().items() if name not in _OF_IMAGES}
    if plain["policy"] is not None:
        plain["policy"] = {k: v for k, v in plain["policy"].items() if k != "subspace"}
    written = _json(plain)
    facts = {
        "format": FORMAT,
        "bcd_version": bcd.__version__,
        "classes": card.classes,
        "benign": card.benign,
        "reasons": list(REASONS),
        "decides_malignant": "malignant_threshold" in module.defaults,
        "calibrated": card.policy is not None,
        "preprocessing": "graph" if module.in_graph else "predictor",
        "views": [_view(view) for view in card.input_views],
        "mask_scale_bar": card.mask_scale_bar,
        "precision": precision,
        "int8": int8,
        "thresholds": module.defaults,
        "appearance": card.appearance,
        "recalibration": card.recalibration,
        "card_sha256": hashlib.sha256(written.encode("ascii")).hexdigest(),
    }
    return {"bcd": _json(facts), "card": written}


def _view(view: InputView) -> list[Any]:
    return [view.normalization, view.side, view.roi, view.cut_from]


def _json(value: Any) -> str:
    return json.dumps(_finite(value), sort_keys=True, ensure_ascii=True, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
