"""A drawn slide, a model that finds its dark tiles, and the settings to have it answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.input_views import InputView
from bcd.config.slide import SlideConfig
from bcd.data.synthetic.smears import CLASS_NAMES
from bcd.evaluation.decision import LOW_CONFIDENCE, Decisions, Reasons
from bcd.inference.model import ModelFacts
from bench.slide import Scene, draw_scene

Pixels = NDArray[np.uint8]
MPP = 0.5  # of level 0
SIDE = 32  # of the stub's images


class Darkness:
    """A model that finds dark tiles malignant, and refers those that are nearly white."""

    facts = ModelFacts(
        list(CLASS_NAMES), 0, (InputView("plain", SIDE),), False, None, None, True, card_sha256=""
    )
    device, threads, batch = "cpu", 1, None

    def answer(self, packed: Pixels) -> Decisions:
        dark = 1 - packed.reshape(len(packed), -1).mean(axis=1) / 255
        rest = np.zeros_like(dark)
        probabilities = np.stack([1 - dark, rest, rest, dark], axis=1)
        reasons: list[Reasons] = [(LOW_CONFIDENCE,) if one < 0.1 else () for one in dark]
        return Decisions(probabilities, [bool(one > 0.5) for one in dark], reasons,
                         probabilities > 0.5, rest)  # fmt: skip


def darkened(side: int) -> Scene:
    """A scene whose planted fields are dark."""
    scene = draw_scene(side, pool=2, mpp=MPP)
    scene.fields[1] //= 4
    return scene


def asked(file: Path | str, run_dir: Path, **settings: Any) -> SlideConfig:
    given = {"ckpt": "x", "input": str(file), "num_workers": 1, "run_dir": str(run_dir)}
    return with_defaults(SlideConfig, **{**given, **settings})
