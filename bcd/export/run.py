"""The work of `bcd export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bcd.config.export import ExportConfig
from bcd.console import say, short
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.metadata import describe
from bcd.export.module import ExportModule
from bcd.export.parity import Answer, Parity, Pixels, Reference, compare, parity_images
from bcd.export.policy import OUTPUTS
from bcd.inference.checkpoint import load_checkpoint
from bcd.run_folder import find_checkpoint
from bcd.storage import replacing, typed_path


def export(cfg: ExportConfig) -> Path:
    """Exports a checkpoint, checks that the file answers like it, and writes it.

    Args:
        cfg: Checked configuration.

    Returns:
        The file.

    Raises:
        BcdError: No such checkpoint, one without a decision policy, a network that cannot be
            exported, or one whose exported answers differ.
    """
    source = find_checkpoint(cfg.ckpt)
    file = _output(cfg, source)
    network, card = load_checkpoint(source)
    policy = DecisionPolicy.from_plain(card.policy)
    module = ExportModule(network, policy, card.input_views, card.mask_scale_bar, cfg.format)
    data, answer = _onnx(module, card) if cfg.format == "onnx" else _program(module, card)
    images = parity_images(max(card.sides))
    found = compare(answer, Reference(network, card), images, not module.in_graph)
    found.check()
    _write(file, data)
    _tell(found, file, module)
    return file


def _output(cfg: ExportConfig, source: Path) -> Path:
    if cfg.output is None:
        middle = "" if cfg.precision == "float32" else f".{cfg.precision}"
        return source.with_name(f"{source.stem}{middle}{cfg.suffix}")
    file = typed_path(cfg.output)
    if file.suffix.lower() != cfg.suffix:
        raise ConfigError(f"output={cfg.output}: must end in {cfg.suffix} for format={cfg.format}")
    return file


def _onnx(module: ExportModule, card: Any) -> tuple[bytes, Answer]:
    from bcd.export.onnx_file import set_metadata, to_onnx

    model = to_onnx(module)
    set_metadata(model, describe(card, module, "float32"))
    data: bytes = model.SerializeToString()
    return data, onnx_answer(data)


def onnx_answer(data: bytes) -> Answer:
    """Answers of an ONNX model of this project."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())

    def answer(batch: Pixels) -> dict[str, Any]:
        return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {name: batch}), strict=True))

    return answer


def _program(module: ExportModule, card: Any) -> tuple[bytes, Answer]:
    import io

    from bcd.export.program import program_bytes, to_program

    data = program_bytes(to_program(module), describe(card, module, "float32"))
    answering: Any = torch.export.load(io.BytesIO(data)).module()
    limits = [torch.tensor(value, dtype=torch.float64) for value in module.defaults.values()]

    def answer(batch: Pixels) -> dict[str, Any]:
        found = answering(torch.from_numpy(np.ascontiguousarray(batch)), *limits)
        return {name: value.numpy() for name, value in zip(OUTPUTS, found, strict=True)}

    return data, answer


def _write(file: Path, data: bytes) -> None:
    try:
        with replacing(file) as stream:
            stream.write(data)
    except OSError as error:
        raise BcdError(f"output={file}: cannot be written ({error.strerror or error})") from error


def _tell(found: Parity, file: Path, module: ExportModule) -> None:
    where = "" if module.in_graph else "; bcd predict prepares the images"
    say(f"exported: {short(file)} ({file.stat().st_size / 1e6:.1f} MB{where})")
    say(
        f"parity: the same decisions for {found.decided} of {found.images} images, "
        f"{found.images - found.decided} are too close to a threshold to compare; largest "
        f"difference of a probability {found.largest:.1e}"
    )
