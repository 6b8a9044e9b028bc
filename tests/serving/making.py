"""A model that needs no training, a configuration, and drawn images for tests of the server."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcd.config.input_views import InputView
from bcd.config.serve import ServeConfig
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.evaluation.decision import LOW_CONFIDENCE, OOD, Decisions
from bcd.inference.model import ModelFacts
from bcd.serving.answers import ModelIdentity

SIDE = 112
IDENTITY = ModelIdentity(
    "stub", "5" * 64, "0.1.0", "export", "c" * 64, tuple(CLASS_NAMES), CLASS_NAMES.index("Benign")
)


class StubModel:
    """Answers by colour alone: what is not stained like a smear is out of distribution."""

    device, threads, batch = "cpu", 2, 4
    facts = ModelFacts(
        list(CLASS_NAMES), IDENTITY.benign, (InputView("plain", SIDE),), False, None, None, True,
        IDENTITY.card_sha256,
    )  # fmt: skip

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        pixels = packed.reshape(len(packed), -1, 3).astype(float)
        mean = pixels.mean(axis=1)
        logits = np.stack([mean[:, i % 3] * (i + 1) % 7 for i in range(len(CLASS_NAMES))], axis=1)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        reasons = []
        for row, (red, _, _) in zip(probabilities, mean, strict=True):
            why = [LOW_CONFIDENCE] * bool(row.max() < 0.6) + [OOD] * bool(red < 60)
            reasons.append(tuple(why))
        malignant = [bool(row.argmax() != IDENTITY.benign) for row in probabilities]
        scores = np.where(mean[:, 0] < 60, 1.5, 0.5)
        return Decisions(probabilities, list(malignant), reasons, probabilities >= 0.05, scores)


def serve_config(folder: Path, *overrides: str) -> ServeConfig:
    """The configuration of a server whose records are in a folder."""
    from hydra import compose, initialize_config_dir

    from bcd.cli.paths import mapped_path, quote_paths
    from bcd.config.check import check_config
    from tests.helpers.harness import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = quote_paths([f"folder={folder}", "port=0", *overrides], "serve")
        cfg = compose("serve", overrides=given)
    cfg.model = mapped_path(cfg.model)
    return check_config(cfg, ServeConfig)


@cache
def smear(number: int = 0, size: int = SIDE, form: str = "PNG") -> bytes:
    """An encoded drawn smear."""
    name = CLASS_NAMES[number % len(CLASS_NAMES)]
    return encoded(draw_smear(name, slide=number % 5, index=number, size=size), form)


def no_smear(size: int = SIDE) -> bytes:
    """An encoded image that is no smear: blue and green stripes."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, ::2, 1], pixels[:, 1::2, 2] = 255, 255
    return encoded(pixels)


def encoded(pixels: NDArray[np.uint8], form: str = "PNG", **options: Any) -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()
