"""Engines: ways to run the frozen prefix, all exact up to rounding, chosen by speed."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcd.config.check import first_line
from bcd.config.environment import core_count
from bcd.console import say
from bcd.errors import BcdError
from bcd.models.frozen_prefix import FrozenPrefix

T = TypeVar("T")
Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class EngineError(BcdError):
    """An engine that cannot run a network."""


@dataclass(frozen=True)
class Engine:
    """A way to run a prefix.

    Attributes:
        name: With its version and precision, as in a bank's cache key.
        forward: Maps images uint8 (N, size, size, 3) to float32 (N, ...). May be called from
            `threads` threads at the same time.
        threads: Number of simultaneous calls that keeps the machine busy.
        batch: Images per call.
    """

    name: str
    forward: Forward
    threads: int
    batch: int


def choose_engine(name: str, device: torch.device) -> str:
    """Returns the engine that `features.engine` selects on a device.

    Raises:
        BcdError: It is not installed.
    """
    if name == "auto":
        return "onnxruntime" if device.type == "cpu" else "torch"
    if find_spec(name) is None:
        raise BcdError(
            f"features.engine={name} needs the package {name}: pip install {name}, or set "
            "features.engine=auto"
        )
    return name


def engine_label(name: str, device: torch.device) -> str:
    """Label of an engine in a cache key: engines whose results may differ have different labels."""
    if name == "torch":
        return f"torch {version('torch')} {device.type} float32"
    return f"{name} {version(name)} cpu float32"


def with_engine(asked: str, device: torch.device, use: Callable[[str], T]) -> T:
    """Calls `use` with the name of the engine that `features.engine` selects.

    If `auto` chose one that cannot run the network, reports it and calls `use` with torch.

    Raises:
        BcdError: As `use` does, or the engine is not installed.
    """
    name = choose_engine(asked, device)
    try:
        return use(name)
    except EngineError as error:
        if asked != "auto":
            raise BcdError(f"features.engine={error}: set features.engine=torch") from error
        say(f"features.engine=auto: {error}; using torch instead")
        return use("torch")


def make_engine(name: str, prefix: FrozenPrefix, size: int, device: torch.device) -> Engine:
    """Makes an engine that runs a copy of the prefix on images of one input view.

    Args:
        name: As `choose_engine` returned it.
        prefix: Not modified.
        size: Side of the images in pixels.
        device: For torch; the others run on the CPU.

    Raises:
        EngineError: The engine cannot run this network.
    """
    module = without_batchnorm(prefix)
    makers = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    label = engine_label(name, device)
    if name == "torch":
        return _torch(label, module, device)
    try:
        return makers[name](label, module, size)
    except Exception as error:
        raise EngineError(f"{name} cannot run this network ({first_line(error)})") from error


def without_batchnorm(prefix: FrozenPrefix) -> nn.Module:
    """Copies a prefix; the copy has less to compute and takes images with channels last."""
    return _Extractor(prefix).eval()


class _Extractor(nn.Module):
    """A prefix with BatchNorm folded into the convolutions; takes images with channels last."""

    def __init__(self, prefix: FrozenPrefix) -> None:
        super().__init__()
        self.prefix = copy.deepcopy(prefix)
        self.prefix.views = ()
        self.prefix.skipped = False
        fold_batchnorm(self.prefix.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Maps uint8 (N, size, size, 3) to (N, ...)."""
        output: Tensor = self.prefix(x.permute(0, 3, 1, 2))
        return output


def fold_batchnorm(module: nn.Module) -> None:
    """Folds each BatchNorm in eval mode that follows a convolution in a sequence into it.

    Only torch's own classes: a subclass may do more, as timm's BatchNorm with ReLU does.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for child in module.children():
        fold_batchnorm(child)
    if isinstance(module, nn.Sequential):
        for number in range(len(module) - 1):
            convolution, norm = module[number], module[number + 1]
            if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                module[number] = fuse_conv_bn_eval(convolution, norm)
                module[number + 1] = nn.Identity()


def _torch(label: str, module: nn.Module, device: torch.device) -> Engine:
    module = module.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = torch.from_numpy(images).to(device, non_blocking=True)
        output: Tensor = module(x)
        return output.cpu().numpy()

    if device.type == "cpu":
        return Engine(label, forward, core_count(), 8)
    return Engine(label, forward, min(16, core_count()), 64)


def export_onnx(module: nn.Module, size: int) -> bytes:
    """Exports a module of `images`, uint8 (N, size, size, 3), as ONNX with a free batch size."""
    stream = io.BytesIO()
    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), plain_attention():
        warnings.simplefilter("ignore")
        # The tracing exporter takes half a second where the newer one takes thirteen.
        torch.onnx.export(
            module,
            (example,),
            stream,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["features"],
            dynamic_axes={"images": {0: "n"}, "features": {0: "n"}},
            dynamo=False,
            # onnxruntime then rejects what cannot be exported, in one line; torch prints the graph.
            operator_export_type=torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH,
        )
    return stream.getvalue()


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Computes attention in steps that can be exported, instead of in one fused call."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _onnxruntime(label: str, module: nn.Module, size: int) -> Engine:
    return onnx_engine(label, export_onnx(module, size))


def onnx_engine(label: str, exported: bytes) -> Engine:
    """Makes an engine of onnxruntime from a model that `export_onnx` exported."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # Windows builds send them whatever the environment says
    options = onnxruntime.SessionOptions()
    # One thread per call and as many calls as cores: no call waits for another's slowest thread,
    # and decoding fills the gaps.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (output,) = session.run(None, {"images": images})
        return np.asarray(output, dtype=np.float32)

    return Engine(label, forward, core_count(), 1)


def _openvino(label: str, module: nn.Module, size: int) -> Engine:
    import openvino

    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with plain_attention():
        model = openvino.convert_model(module, example_input=example)
    model.reshape({0: [-1, size, size, 3]})
    streams = {"NUM_STREAMS": core_count(), "INFERENCE_NUM_THREADS": core_count()}
    exact = {"INFERENCE_PRECISION_HINT": "f32", **streams}
    compiled: Any = openvino.Core().compile_model(model, "CPU", exact)

    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        request = compiled.create_infer_request()
        output = request.infer({0: images})[0]
        return np.array(output, dtype=np.float32)

    return Engine(label, forward, core_count(), 8)
