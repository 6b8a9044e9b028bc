"""Writes a checkpoint's whole answer as a program of `torch.export`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import Dim

from bcd.config.check import first_line
from bcd.errors import BcdError
from bcd.export.module import ExportModule, example


def to_program(module: ExportModule) -> torch.export.ExportedProgram:
    """Converts a module to an exported program; thresholds are its arguments after the images.

    Raises:
        BcdError: The network has an operation that `torch.export` cannot convert.
    """
    limits = [torch.tensor(value, dtype=torch.float64) for value in module.defaults.values()]
    count = Dim("n", min=1, max=1 << 16)
    free = {0: count}
    if module.in_graph:
        free |= {1: Dim("height", min=1, max=1 << 16), 2: Dim("width", min=1, max=1 << 16)}
    shapes: Any = (free, tuple({} for _ in limits))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(
                module, (example(module.views), *limits), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        raise BcdError(
            f"this network cannot be exported as a program ({first_line(error)})"
        ) from error


def program_bytes(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The program as a file, with the metadata as extra files."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights that two layers share
        torch.export.save(program, stream, extra_files=dict(metadata))
    return stream.getvalue()
