"""Where in an image the evidence for a class is."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.input_views import shown_pixels, split_described
from bcd.explain.overlay import draw_overlay
from bcd.inference.evidence import find_evidence
from bcd.inference.model import Model
from bcd.serving.answers import ModelIdentity
from bcd.serving.errors import UnprocessableError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Explanation:
    """Where in an image the evidence for a class is.

    Attributes:
        png: The pixels that the network got with the evidence drawn over them.
        method: How it was found: `gradcam`, `integrated_gradients` or `occlusion`.
        target: The class.
        empty: Whether no place speaks for the class.
        milliseconds: From its arrival in the queue.
        found: The evidence, as `find_evidence` returns it.
    """

    png: bytes
    method: str
    target: str
    empty: bool
    milliseconds: float
    found: NDArray[np.float32]


def find_target(identity: ModelIdentity, target: str | None) -> int | None:
    """Index of the class to explain; None for the predicted one.

    Raises:
        UnprocessableError: The model has no such class.
    """
    if target is None:
        return None
    if target not in identity.classes:
        raise UnprocessableError(f"target: give one of {', '.join(identity.classes)}")
    return identity.classes.index(target)


def explain(
    model: Model,
    identity: ModelIdentity,
    packed: Pixels,
    target: int | None,
    turn: contextlib.AbstractContextManager[object],
    begun: float,
) -> Explanation:
    """Explains the answer for an image.

    Args:
        model: Whose answer it is.
        identity: Of the model.
        packed: What was read of the image.
        target: Index of the class; None for the predicted one.
        turn: Is held while the model is used, if it can be used only once at a time.
        begun: When the image arrived, in seconds of `time.monotonic`.

    Raises:
        UnprocessableError: The model gives no answer for the image.
    """
    views = model.facts.input_views
    with turn:
        decided = model.answer(packed[None]).prediction(0, "")
        if decided.best is None:
            raise UnprocessableError("the model's output is not a finite number")
        chosen = decided.best if target is None else target
        checkpoint = identity.kind == "checkpoint"
        found, method = find_evidence(model, packed, chosen, checkpoint=checkpoint)
    got = split_described(packed[None], views)[1][0]
    png = encode_png(draw_overlay(shown_pixels(got, views), found))
    spent = (time.monotonic() - begun) * 1000
    return Explanation(png, method, identity.classes[chosen], not found.any(), spent, found)


def encode_png(pixels: Pixels) -> bytes:
    """A PNG of RGB (height, width, 3); it holds nothing but these pixels."""
    _, code = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))
    return code.tobytes()
