"""Writes a checkpoint's whole answer as an ONNX model."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from bcd.config.check import first_line
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.module import ExportModule, example
from bcd.export.policy import OUTPUTS
from bcd.features.engines import plain_attention

OPSET = 18
LOGITS, DESCRIPTORS = "logits", "descriptors"
TEMPERATURE, MEAN, BASIS = "policy.temperature", "policy.mean", "policy.basis"


def to_onnx(module: ExportModule) -> Any:
    """Converts a module to an ONNX model, an `onnx.ModelProto`.

    The thresholds become inputs with defaults (initializers that can be overridden).

    Raises:
        BcdError: The network has an operation that ONNX does not have.
    """
    import onnx

    try:
        model = onnx.load_from_string(_traced(module))
        _add_defaults(model, module.defaults)
    except Exception as error:
        raise BcdError(f"this network cannot be exported to ONNX ({first_line(error)})") from error
    return model


def set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata of a model."""
    del model.metadata_props[:]
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    model.doc_string = "Research use only; not a medical device."


def _traced(module: ExportModule) -> bytes:
    limits = [torch.tensor(value, dtype=torch.float64) for value in module.defaults.values()]
    outputs = [*OUTPUTS, LOGITS, DESCRIPTORS] if module.tells_outputs else list(OUTPUTS)
    free = {0: "n", 1: "height", 2: "width"} if module.in_graph else {0: "n"}
    stream = io.BytesIO()
    with warnings.catch_warnings(), plain_attention(), _small_numbers(), torch.no_grad():
        warnings.simplefilter("ignore")
        # The tracing exporter takes a second where the newer one takes many.
        torch.onnx.export(
            module,
            (example(module.views), *limits),
            stream,  # type: ignore[arg-type]
            input_names=list(module.names),
            output_names=outputs,
            dynamic_axes={module.names[0]: free} | {name: {0: "n"} for name in outputs},
            dynamo=False,
            opset_version=OPSET,
        )
    return stream.getvalue()


@contextlib.contextmanager
def _small_numbers() -> Iterator[None]:
    """Exports functions that are precise near zero, which ONNX does not have, in float64."""
    from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

    single, double = 1, 11  # of onnx.TensorProto

    def wide(g: Any, x: Any) -> Any:
        return g.op("Cast", x, to_i=double)

    def one(g: Any) -> Any:
        return g.op("Constant", value_t=torch.tensor(1, dtype=torch.float64))

    def expm1(g: Any, x: Any) -> Any:
        return g.op("Cast", g.op("Sub", g.op("Exp", wide(g, x)), one(g)), to_i=single)

    def log1p(g: Any, x: Any) -> Any:
        return g.op("Cast", g.op("Log", g.op("Add", wide(g, x), one(g))), to_i=single)

    functions = {"aten::expm1": expm1, "aten::log1p": log1p}
    for name, function in functions.items():
        register_custom_op_symbolic(name, function, OPSET)
    try:
        yield
    finally:
        for name in functions:
            unregister_custom_op_symbolic(name, OPSET)


def _add_defaults(model: Any, defaults: Mapping[str, float]) -> None:
    """Gives inputs a default value."""
    from onnx import numpy_helper

    for name, value in defaults.items():
        initializer = numpy_helper.from_array(np.asarray(value, np.float64), name)
        model.graph.initializer.append(initializer)


def set_policy(model: Any, policy: DecisionPolicy, defaults: Mapping[str, float]) -> None:
    """Replaces the policy of a model: temperature, subspace, and defaults of the thresholds.

    Raises:
        LookupError: The model does not have one of them.
    """
    from onnx import numpy_helper

    values: dict[str, Any] = {TEMPERATURE: policy.temperature, **defaults}
    if policy.subspace is not None:
        values |= {MEAN: policy.subspace.mean, BASIS: policy.subspace.basis.T}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in values.items():
        value = np.ascontiguousarray(value, np.float64).reshape(np.shape(value))
        assert list(tensors[name].dims) == list(value.shape)
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))


def remove_outputs(model: Any) -> None:
    """Removes the last outputs of a model, `LOGITS` and `DESCRIPTORS`; what computes them stays."""
    for name in (DESCRIPTORS, LOGITS):
        last = model.graph.output.pop()
        assert last.name == name
