"""Work that goes on as long as the server does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

_PAUSE = 1.0  # seconds before work that has failed is started again
_FINE = 10.0  # seconds after which it is no longer said to have failed

log = structlog.get_logger("bcd.serving")


class Tasks:
    """Starts work again that an error has ended, whatever the error; call it in the event loop.

    Args:
        pause: Seconds before that.
        fine: Seconds that it then has to go on, until it is not `down` any more.
    """

    def __init__(self, pause: float = _PAUSE, fine: float = _FINE) -> None:
        self._pause, self._fine = pause, fine
        self._down: Counter[str] = Counter()
        self._running: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts work, which may also end by itself if there is nothing to do.

        Args:
            name: Of the work.
            work: Called again after each error.
        """
        self._running.append(asyncio.create_task(self._keep(name, work)))

    def down(self, *names: str) -> list[str]:
        """Names of work that an error has ended just now; of these only, if any are given."""
        return sorted(name for name in +self._down if not names or name in names)

    async def stop(self) -> None:
        """Cancels all work, and waits until it has ended."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        failed = False
        while True:
            task = asyncio.create_task(work())
            try:
                done, _ = await asyncio.wait([task], timeout=self._fine if failed else None)
                if failed:
                    if not done:
                        self._down[name] -= 1
                        failed = False
                    await asyncio.wait([task])
            except asyncio.CancelledError:  # the server stops
                task.cancel()
                await asyncio.wait([task])
                _error(task)
                raise
            error = _error(task)
            if not error:
                self._down[name] -= failed
                return
            log.error("task_failed", task=name, error=error)
            self._down[name] += not failed
            failed = True
            await asyncio.sleep(self._pause)


def _error(task: asyncio.Task[None]) -> str:
    """What has ended a task; empty for no error. Being cancelled by somebody else is one."""
    if task.cancelled():
        return "CancelledError"
    error = task.exception()
    return "" if error is None else type(error).__name__
