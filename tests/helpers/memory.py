"""Measures how much memory a call takes at its peak, whatever the process used before it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def peak_growth(call: Callable[[], T]) -> tuple[T, float]:
    """Calls a function and returns its result and the peak of what it allocated, in MB.

    Counts the allocations of Python and numpy, not the process's resident memory: that depends on
    what earlier tests left to be reused and on what the kernel takes back meanwhile. What other
    threads of the process allocate meanwhile is counted, too: where that would be more than the
    bound that is tested, call it some times and take the smallest.
    """
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, peak / 2**20
