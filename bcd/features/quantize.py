"""Quantizes an exported network to int8."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.errors import BcdError

# Layers with weights, and what is between them, so that integers are passed on.
WEIGHTED = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Clip", "Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")

_FIRST = 3  # layers that `first_layers` finds

Inputs = Iterable[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class _Seen:
    """Values of a tensor: lowest, highest, and mean of each channel, all of them means over runs.

    The means of the extremes are used because those of a single image may be far outside.
    """

    lowest: float
    highest: float
    means: NDArray[np.float64]


def quantize_onnx(
    exported: bytes, inputs: Inputs, exact: Callable[[Any], Collection[str]] | None = None
) -> bytes:
    """Quantizes the layers of an ONNX model to int8, statically and per channel.

    The range of an activation is the mean of those on each input. What rounding the weights of a
    convolution adds to its output on average is subtracted from its bias (Nagel et al., "Data-free
    quantization through weight equalization and bias correction", ICCV 2019). On processors without
    VNNI instructions onnxruntime may saturate sums of int8 products; compare the answers before
    using them.

    Args:
        exported: The model in float32, opset 13 or higher.
        inputs: What to calibrate on, such as some dozens of training images: for each run of the
            model an array by name of input.
        exact: Gives the names of nodes of an `onnx.GraphProto` that stay as they are, with weights
            of their own; None for none.

    Returns:
        The model with QuantizeLinear and DequantizeLinear (QDQ) around its layers.

    Raises:
        BcdError: There is no layer to quantize, or no input.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, prepared = Path(folder, "given.onnx"), Path(folder, "prepared.onnx")
        given.write_bytes(exported)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        names = layers(model.graph, () if exact is None else exact(model.graph))
        _copy_shared(model.graph, names)
        seen = _observe(model, names, inputs)
        if not seen:
            raise BcdError("this network has no layer to quantize, or there are no images")
        _correct_biases(model.graph, names, seen)
        return _quantized(model, names, seen)


def layers(graph: Any, exact: Collection[str] = ()) -> list[str]:
    """Names of the nodes to quantize in an `onnx.GraphProto`: layers, and what is between them.

    Args:
        graph: The graph.
        exact: Names of nodes that stay as they are.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    makers = {output: node.name for node in graph.node for output in node.output}
    found: dict[str, None] = {}
    for node in graph.node:
        if not node.name or node.name in exact:
            continue
        weights = shapes.get(node.input[1], []) if len(node.input) > 1 else []
        follows = any(makers.get(name) in found for name in node.input)
        adds_bias = node.op_type == "Add" and any(name in shapes for name in node.input)
        weighted = node.op_type in WEIGHTED and len(weights) >= 2
        if weighted or (node.op_type in _BETWEEN and follows and not adds_bias):
            found[node.name] = None
    return list(found)


def first_layers(graph: Any, around: Collection[str] = ()) -> set[str]:
    """Names of the first few layers of a network in an `onnx.GraphProto`.

    They are worth keeping exact: they see few channels, so that rounding errors do not average out,
    and all that follows sees these errors. In float32 they take hardly longer.

    Args:
        graph: The graph.
        around: Names of nodes that are not of the network.
    """
    inner = set(layers(graph, around))
    weighted = [n.name for n in graph.node if n.name in inner and n.op_type in WEIGHTED]
    # A small network has few layers to leave out.
    return set(weighted[: min(_FIRST, len(weighted) // 4 + 1)])


def _copy_shared(graph: Any, names: Collection[str]) -> None:
    """Gives nodes that are not quantized weights of their own, and each convolution its bias.

    Biases are corrected, and rounded to steps that depend on the input.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    biased: set[str] = set()
    for node in graph.node:
        if node.name not in names or node.op_type != "Conv" or len(node.input) < 3:
            continue
        name = node.input[2]
        if name in biased and name in tensors:
            node.input[2] = f"{name}_{len(graph.initializer)}"
            graph.initializer.add().CopyFrom(tensors[name])
            graph.initializer[-1].name = node.input[2]
        biased.add(name)
    rest = [node for node in graph.node if node.name not in names]
    used = {name for node in graph.node if node.name in names for name in node.input}
    for tensor in [t for t in graph.initializer if t.name in used and t.dims]:
        places = [(n, k) for n in rest for k, name in enumerate(n.input) if name == tensor.name]
        for node, k in places:
            node.input[k] = f"{tensor.name}_exact"
        if places:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = f"{tensor.name}_exact"


def _observe(model: Any, names: Collection[str], inputs: Inputs) -> dict[str, _Seen]:
    """The values that go into nodes and come out of them."""
    import onnx
    import onnxruntime

    constant = {tensor.name for tensor in model.graph.initializer}
    constant |= {out for n in model.graph.node if n.op_type == "Constant" for out in n.output}
    chosen = [node for node in model.graph.node if node.name in names]
    ends = {name for node in chosen for name in (*node.input, *node.output)}
    wanted = sorted(ends - constant - {""})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {output.name for output in watched.graph.output}
    new = [onnx.ValueInfoProto(name=name) for name in wanted if name not in known]
    watched.graph.output.extend(new)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    sums: dict[str, list[Any]] = {name: [0.0, 0.0, 0.0] for name in wanted}
    runs = 0
    for given in inputs if wanted else ():
        runs += 1
        for name, value in zip(wanted, session.run(wanted, given), strict=True):
            axes = (0, *range(2, value.ndim))
            now = value.min(), value.max(), value.mean(axes, dtype=np.float64)
            sums[name] = [old + new for old, new in zip(sums[name], now, strict=True)]
    return {
        name: _Seen(float(low) / runs, float(high) / runs, means / runs)
        for name, (low, high, means) in sums.items()
        if runs
    }


def _correct_biases(graph: Any, names: Collection[str], seen: Mapping[str, _Seen]) -> None:
    """Subtracts from biases of convolutions what rounding their weights adds on average."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        biased = node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in tensors
        if node.name not in names or not biased:
            continue
        weights = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
        flat = weights.reshape(len(weights), -1)
        step = np.maximum(np.abs(flat).max(1, keepdims=True) / 127, 1e-30)
        lost = (flat - np.round(flat / step) * step).reshape(*weights.shape[:2], -1).sum(2)
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        inputs = seen[node.input[0]].means.reshape(groups, 1, -1)
        added = (lost.reshape(groups, -1, weights.shape[1]) * inputs).sum(2).ravel()
        bias = tensors[node.input[2]]
        corrected = numpy_helper.to_array(bias) + added
        bias.CopyFrom(numpy_helper.from_array(corrected.astype(np.float32), bias.name))


def _quantized(model: Any, names: list[str], seen: Mapping[str, _Seen]) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    ranges = {
        name: (np.array(one.lowest, np.float32), np.array(one.highest, np.float32))
        for name, one in seen.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,  # the kernels of x86 multiply uint8 by int8
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=names,
        nodes_to_exclude=[],
        op_types_to_quantize=[*WEIGHTED, *_BETWEEN],
        extra_options={},
    )
    quantizer.quantize_model()
    data: bytes = quantizer.model.model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what onnxruntime prints and logs about its progress."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)
        logging.disable(before)
