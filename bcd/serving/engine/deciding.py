"""Threads in which the model decides about what was read."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.decision import Decisions
from bcd.inference.model import Model

T = TypeVar("T")


class DroppedError(Exception):
    """Nobody wants the decision any more."""


@dataclass(frozen=True)
class Read(Generic[T]):
    """An image that was read.

    Attributes:
        what: It belongs to this.
        packed: What the model gets.
    """

    what: T
    packed: NDArray[np.uint8]


class Deciders(Generic[T]):
    """Threads in which the model decides about what was read, in order of arrival.

    Args:
        model: It decides.
        most: Images of one call. A thread takes its share of those that are there, and waits for
            none.
        wanted: Whether something still has to be decided about.
        told: Gets what was decided about, with the decisions and its number in them, or with what
            the model raised, or a `DroppedError`; it must not raise.

    Attributes:
        turn: Is held during each call of the model if it can have only one at a time.
    """

    def __init__(
        self,
        model: Model,
        most: int,
        wanted: Callable[[T], bool],
        told: Callable[[T, Decisions | Exception, int], None],
    ) -> None:
        self._model, self._most, self._wanted, self._told = model, most, wanted, told
        self._queue: SimpleQueue[Read[T] | None] = SimpleQueue()
        self.turn: contextlib.AbstractContextManager[object] = (
            threading.Lock() if model.threads == 1 else contextlib.nullcontext()
        )
        self._threads = [
            threading.Thread(target=self._run, name=f"deciding-{number}", daemon=True)
            for number in range(model.threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, what: T, packed: NDArray[np.uint8]) -> None:
        """Has an image decided about."""
        self._queue.put(Read(what, packed))

    def close(self, seconds: float) -> None:
        """Ends the threads after what they have been given, or after so many seconds."""
        last = time.monotonic() + seconds
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, last - time.monotonic()))

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            share = math.ceil((self._queue.qsize() + 1) / len(self._threads))
            with contextlib.suppress(Empty):
                while len(batch) < min(self._most, share):
                    if (read := self._queue.get_nowait()) is None:
                        self._queue.put(None)  # for the next round
                        break
                    batch.append(read)
            self._decide([read for read in batch if self._keep(read)])

    def _keep(self, read: Read[T]) -> bool:
        keep = self._wanted(read.what)
        if not keep:
            self._told(read.what, DroppedError(), 0)
        return keep

    def _decide(self, batch: list[Read[T]]) -> None:
        if not batch:
            return
        found: Decisions | Exception
        try:
            packed = [read.packed for read in batch]
            with self.turn:
                found = self._model.answer(packed[0][None] if len(batch) == 1 else np.stack(packed))
        except Exception as error:
            if len(batch) > 1:  # costs only the image that is at fault
                for read in batch:
                    self._decide([read])
                return
            found = error
        for number, read in enumerate(batch):
            self._told(read.what, found, number)
