"""Quantizes an exported network to int8."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def quantize_onnx(exported: bytes, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> bytes:
    """Quantizes the layers of an ONNX model to int8, statically and per channel.

    The ranges of activations are those seen on the inputs. On processors without VNNI instructions
    onnxruntime may saturate sums of int8 products; compare the answers before using them.

    Args:
        exported: The model in float32, opset 13 or higher.
        inputs: What to calibrate on, such as some dozens of training images: for each run of the
            model an array by name of input.

    Returns:
        The model with QuantizeLinear and DequantizeLinear (QDQ) around its layers.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> Mapping[str, NDArray[Any]] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, prepared, done = (Path(folder, f"{n}.onnx") for n in ("given", "prepared", "done"))
        given.write_bytes(exported)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            done,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # the kernels of x86 multiply uint8 by int8
            weight_type=QuantType.QInt8,
        )
        return done.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what onnxruntime prints and logs about its progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
