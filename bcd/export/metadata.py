"""What an exported file says about itself; `bcd.inference.exported` reads it."""

from __future__ import annotations

from typing import Any

import bcd
from bcd.config.input_views import InputView
from bcd.export.module import ExportModule
from bcd.export.policy import REASONS
from bcd.inference.checkpoint import Card
from bcd.storage import digest, plain_json

FORMAT = 1  # increase it when older programs would misread the file


def describe(
    card: Card,
    module: ExportModule,
    precision: str,
    int8: dict[str, Any] | None = None,
    self_test: dict[str, Any] | None = None,
) -> dict[str, str]:
    """The metadata of an exported file.

    Args:
        card: Of the checkpoint.
        module: What is exported.
        precision: `float32`, `float16` or `int8`.
        int8: How it was quantized, and figures before and after.
        self_test: Reference answers, from `make_self_test`.

    Returns:
        `bcd`, what a program needs to use the file, and `card`, the checkpoint's card without lists
        of images and without tensors; both are JSON in ASCII.
    """
    written = card.text()
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
        "self_test": self_test,
        "thresholds": module.defaults,
        "appearance": card.appearance,
        "recalibration": card.recalibration,
        "card_sha256": digest(written),
    }
    return {"bcd": plain_json(facts), "card": written}


def _view(view: InputView) -> list[Any]:
    return [view.normalization, view.side, view.roi, view.cut_from]
