"""Runs the frozen prefix in int8, and measures how far its features are from exact ones.

An approximation, only for the random views that a head is trained on. Plain images, and with them
val, test and the decision policy, always go through the float32 network.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.check import first_line
from bcd.config.input_views import InputView
from bcd.data.input_views import Pixels
from bcd.data.views import ImageViews
from bcd.errors import BcdError
from bcd.features.batches import batches_of
from bcd.features.engines import (
    Engine,
    engine_label,
    export_onnx,
    onnx_engine,
    without_batchnorm,
)
from bcd.features.quantize import first_layers, quantize_onnx
from bcd.models.frozen_prefix import FrozenPrefix
from bcd.storage import write_text

INT8 = "int8"
FILE = "agreement.json"  # of a bank of int8 features

_IMAGES = 64  # training images of which one half calibrates and the other is compared
_LEAST = 0.5  # variance between images that the features must keep


@dataclass(frozen=True)
class Agreement:
    """How int8 features agree with those of the float32 network.

    Attributes:
        calibrated: Training images that the ranges of the int8 numbers come from.
        compared: Other training images, on which both were compared.
        cosine: Mean cosine similarity of the features of an image, or of a cell.
        lowest: The lowest.
        explained: 1 minus the mean squared difference, relative to the variance between images.
    """

    calibrated: int
    compared: int
    cosine: float
    lowest: float
    explained: float

    def write(self, folder: Path) -> None:
        """Writes it to the folder of a bank."""
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Agreement | None:
        """Reads it from the folder of a bank; None if it is missing or damaged."""
        try:
            return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def sentence(self) -> str:
        """What was approximated, how closely, and what was not."""
        return (
            "Training used features computed in int8 (features.engine=int8; ranges from "
            f"{self.calibrated} of the training images). On {self.compared} others their cosine "
            f"similarity to the float32 network's is {self.cosine:.4f} on average and "
            f"{self.lowest:.4f} at the lowest. Training figures and nearest training images rest "
            "on int8 features; what is computed on val and test comes from the float32 network, "
            "which the checkpoint contains."
        )


@dataclass(frozen=True)
class Calibration:
    """The training images on which int8 numbers are calibrated and compared.

    Attributes:
        calibrated: Indices of images.
        compared: Indices of others, if there is more than one.
        view: Number of the view of each.
    """

    calibrated: tuple[int, ...]
    compared: tuple[int, ...]
    view: int

    @classmethod
    def of(cls, indices: Sequence[int], views: Sequence[int]) -> Calibration:
        """Evenly spaced images of those that are trained on, and the first of their views."""
        places = np.linspace(0, len(indices) - 1, min(_IMAGES, len(indices))).astype(int)
        chosen = [indices[place] for place in places]
        return cls(tuple(chosen[::2]), tuple(chosen[1::2] or chosen), min(views))

    def label(self, source: ImageViews) -> str:
        """For a cache key: the engine, and the content of the images."""
        names = " ".join(source.images[i].sha256 for i in (*self.calibrated, *self.compared))
        digest = hashlib.sha256(f"{self.view} {names}".encode()).hexdigest()[:16]
        plain = engine_label("onnxruntime", torch.device("cpu"))
        return f"{plain.replace('float32', INT8)} {digest}"


def make_int8(
    prefix: FrozenPrefix,
    size: int,
    source: ImageViews,
    calibration: Calibration,
) -> tuple[Engine, Agreement]:
    """Makes an engine that runs a copy of the prefix in int8 on images of one side.

    The mean difference from the float32 network on the calibration images is subtracted.

    Args:
        prefix: Not modified.
        size: Side of the images in pixels; its input views are calibrated together.
        source: The images.
        calibration: Which of them to use.

    Raises:
        BcdError: The network cannot be quantized, or its features differ too much.
    """
    inputs = [view for view in source.inputs if view.side == size]
    own, others = (
        _pictures(source, inputs, indices, calibration.view)
        for indices in (calibration.calibrated, calibration.compared)
    )
    if not len(own) or not len(others):
        raise BcdError("features.engine=int8: no image to calibrate on: set features.engine=auto")
    label = calibration.label(source)
    try:
        exported = export_onnx(_with_full_constants(without_batchnorm(prefix), size), size)
        exact = onnx_engine(label, exported)
        shown = ({"images": one[None]} for one in own)
        rough = onnx_engine(label, quantize_onnx(exported, shown, first_layers))
    except ImportError as error:
        raise BcdError(
            f"features.engine=int8: needs a package ({first_line(error)}): pip install onnx "
            "onnxruntime, or set features.engine=auto"
        ) from error
    except Exception as error:
        raise BcdError(
            f"features.engine=int8: this network cannot be quantized ({first_line(error)}): set "
            "features.engine=auto"
        ) from error
    shift = (_run(exact, own) - _run(rough, own)).mean(axis=0)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(rough.forward(images) + shift, np.float32)

    engine = Engine(label, forward, rough.threads, rough.batch)
    found = _compared(calibration, _run(exact, others), _run(engine, others))
    if not found.explained >= _LEAST:
        raise BcdError(
            "features.engine=int8: the features differ too much from those of the float32 network "
            f"(cosine similarity {found.cosine:.3f}, {found.explained:.0%} of the variance between "
            "images explained): set features.engine=auto"
        )
    return engine, found


def _with_full_constants(module: Any, size: int) -> Any:
    """Expands mean and deviation to images: ONNX Runtime broadcasts slowly with channels last."""
    for name in ("mean", "std"):
        buffer = getattr(module.prefix, name)
        setattr(module.prefix, name, buffer.expand(1, 3, size, size).contiguous())
    return module


def _pictures(
    source: ImageViews, inputs: Sequence[InputView], indices: Sequence[int], view: int
) -> Pixels:
    """Everything that the engine would get of these images, uint8 (n, side, side, 3)."""
    found: list[Pixels] = []

    def record(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found.append(images.copy())
        return np.zeros((len(images), 1), np.float32)

    batches = [batches_of(Engine("", record, 1, 1), one) for one in inputs]
    augmenter = copy.copy(source.augmenter)
    for index in indices:
        drawn = partial(augmenter, sha256=source.images[index].sha256, view=view)
        made = source.of_inputs(inputs).make(source.resized(index, verify=True), [drawn])
        for parts in made:
            for batch, pixels in zip(batches, parts, strict=True):
                batch.add(pixels, {})
    return np.concatenate(found) if found else np.empty((0, 1, 1, 3), np.uint8)


def _run(engine: Engine, images: Pixels) -> NDArray[np.float32]:
    return np.concatenate([engine.forward(image[None]) for image in images])


def _compared(
    calibration: Calibration, exact: NDArray[np.float32], rough: NDArray[np.float32]
) -> Agreement:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (exact, rough))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    spread = np.square(a - a.mean(axis=0)).sum()
    explained = 1 - np.square(a - b).sum() / max(spread, 1e-12)
    return Agreement(
        len(calibration.calibrated),
        len(calibration.compared),
        float(cosines.mean()),
        float(cosines.min()),
        float(explained),
    )
