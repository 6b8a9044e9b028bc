"""Builds an exported file in memory and checks that it answers as its checkpoint."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bcd.config.check import first_line
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.float16 import store_float16
from bcd.export.metadata import describe
from bcd.export.module import ExportModule
from bcd.export.onnx_file import set_metadata, to_onnx
from bcd.export.parity import (
    Answer,
    Parity,
    Pixels,
    Reference,
    compare,
    parity_images,
)
from bcd.export.policy import OUTPUTS
from bcd.export.program import program_bytes, to_program
from bcd.inference.checkpoint import Card
from bcd.inference.self_test import make_self_test, tolerance_of
from bcd.models.network import SmearNetwork


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        data: Its bytes.
        answer: Answers batches.
        in_graph: Whether it takes images of any size; otherwise packed ones.
        thresholds: Inputs that can be changed, with their defaults.
        parity: How far its answers are from the checkpoint's.
    """

    data: bytes
    answer: Answer
    in_graph: bool
    thresholds: dict[str, float]
    parity: Parity


def build(network: SmearNetwork, card: Card, form: str, precision: str = "float32") -> Exported:
    """Exports a network that computes in float32.

    Args:
        network: In eval mode.
        card: Of its checkpoint, with a decision policy.
        form: `onnx` or `program`.
        precision: Of the weights in the file; `float16` needs `onnx`.

    Raises:
        BcdError: The network cannot be exported, or its exported answers differ.
    """
    policy = DecisionPolicy.from_plain(card.policy)
    module = ExportModule(network, policy, card.input_views, card.mask_scale_bar, form)
    data, answer = _onnx(module, card, precision) if form == "onnx" else _program(module, card)
    images = parity_images(max(card.sides))
    found = compare(answer, Reference(network, card), images, not module.in_graph)
    found.check(tolerance_of(precision))
    return Exported(data, answer, module.in_graph, module.defaults, found)


def _onnx(module: ExportModule, card: Card, precision: str) -> tuple[bytes, Answer]:
    model = to_onnx(module)
    if precision == "float16":
        store_float16(model)
    try:
        answer = onnx_answer(model.SerializeToString())
        tested = reference_answers(card, answer, precision)
    except Exception as error:
        raise BcdError(f"onnxruntime cannot run this network ({first_line(error)})") from error
    set_metadata(model, describe(card, module, precision, self_test=tested))
    return model.SerializeToString(), answer


def reference_answers(card: Card, answer: Answer, precision: str) -> dict[str, Any]:
    """Reference answers of a file, with which a server checks it on another machine.

    Args:
        card: Of the checkpoint.
        answer: Of the file.
        precision: Of the file.
    """
    return make_self_test(answer, card.input_views, card.mask_scale_bar, precision)


def onnx_answer(data: bytes, outputs: Sequence[str] = OUTPUTS) -> Answer:
    """Answers of an ONNX model of this project.

    Args:
        data: The model.
        outputs: Names of those to compute.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())

    def answer(batch: Pixels) -> dict[str, Any]:
        return dict(zip(outputs, session.run(list(outputs), {name: batch}), strict=True))

    return answer


def _program(module: ExportModule, card: Card) -> tuple[bytes, Answer]:
    data = program_bytes(to_program(module), describe(card, module, "float32"))
    answering: Any = torch.export.load(io.BytesIO(data)).module()
    limits = [torch.tensor(value, dtype=torch.float64) for value in module.defaults.values()]

    def answer(batch: Pixels) -> dict[str, Any]:
        found = answering(torch.from_numpy(np.ascontiguousarray(batch)), *limits)
        return {name: value.numpy() for name, value in zip(OUTPUTS, found, strict=True)}

    return data, answer
