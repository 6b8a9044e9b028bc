"""Stores the weights of an ONNX model as float16."""

from __future__ import annotations

from typing import Any

import numpy as np

# Of a weight's products in a sum: rounding errors of fewer do not average out. These are biases and
# convolutions of single channels, a few percent of all weights but most of the effect.
_LEAST = 32


def store_float16(model: Any) -> None:
    """Halves an ONNX model: its weights are stored as float16 and computed with in float32.

    onnxruntime converts them once, when it loads the model. Left alone are constants in float64,
    which are those of the decision policy, and weights that float16 does not hold.

    Args:
        model: An `onnx.ModelProto`; it is modified.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims[1:], dtype=int) < _LEAST:
            continue
        name, weights = tensor.name, numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halved = weights.astype(np.float16)
        if not np.isfinite(halved).all():
            continue
        tensor.CopyFrom(numpy_helper.from_array(halved, f"{name}_float16"))
        cast = helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=TensorProto.FLOAT)
        casts.append(cast)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
