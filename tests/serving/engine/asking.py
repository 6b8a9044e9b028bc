"""What tests of the engine share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bcd.serving.engine.queue import Engine

Make = Callable[..., Engine]


async def until(condition: Callable[[], object]) -> None:
    last = time.monotonic() + 60  # a busy machine starts a reading process slowly
    while not condition():
        assert time.monotonic() < last
        await asyncio.sleep(0.01)
