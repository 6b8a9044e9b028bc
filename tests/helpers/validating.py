"""DICOM objects read again: by an independent validator and by pydicom."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

VALIDATOR = "dciodvfy"  # of dicom3tools


def dicom_errors(data: bytes, folder: Path) -> list[str]:
    """What the validator calls an error; skips the test if it is not installed."""
    if shutil.which(VALIDATOR) is None:
        pytest.skip(f"{VALIDATOR} is not installed (dicom3tools)")
    file = folder / "object.dcm"
    file.write_bytes(data)
    done = subprocess.run([VALIDATOR, "-new", str(file)], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert len(lines) > 1, done  # it names the IOD at least
    return [line for line in lines if line.startswith("Error")]


def read_again(data: bytes) -> Dataset:
    """An object as pydicom reads it."""
    return dcmread(BytesIO(data))


def items(dataset: Dataset, value_type: str) -> Iterator[tuple[str, Dataset]]:
    """Content items of a type in a report, with their names, in order."""
    for item in dataset.get("ContentSequence", []):
        if item.ValueType == value_type:
            yield item.ConceptNameCodeSequence[0].CodeMeaning, item
        yield from items(item, value_type)
