"""Measures how much memory a call takes at its peak, whatever the process used before it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
_PROCESS = Path("/proc/self")


def peak_growth(call: Callable[[], T]) -> tuple[T, float]:
    """Calls a function and returns its result and its peak resident memory in MB.

    The kernel's peak of the process is reset first: a test that ran earlier in this process may
    have needed more.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux can reset the peak of a process's memory")
    before = _status("VmRSS")
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be reset: {error}")
    result = call()
    return result, _status("VmHWM") - before


def _status(field: str) -> float:
    text = (_PROCESS / "status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024
