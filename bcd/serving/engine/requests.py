"""Requests in the queue: what is asked, and how answers get back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import Future
from typing import Generic, TypeVar

from bcd.data.items import Answer
from bcd.serving.answers import ImageAnswer
from bcd.serving.errors import BusyError, TooLargeError

T = TypeVar("T")


class Room:
    """Counts images that wait or are answered.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._moved = time.monotonic()
        self.taken = 0

    @property
    def stuck(self) -> float:
        """Seconds for which images wait and none was done with; 0 if none waits."""
        return time.monotonic() - self._moved if self.taken else 0.0

    def take(self, count: int, retry_after: int, beyond: int = 0) -> None:
        """Takes room for images.

        Args:
            count: Number of images.
            retry_after: Seconds, said to those who find no room.
            beyond: Images that may be there in addition to `most`.

        Raises:
            TooLargeError: There are more than ever have room.
            BusyError: There is no room for all of them now.
        """
        if count > self._most:
            raise TooLargeError(f"{count} images at once: send at most {self._most}")
        with self._lock:
            if self.taken + count > self._most + beyond:
                waiting = f"{self.taken} image{'s wait' if self.taken != 1 else ' waits'}"
                raise BusyError(f"{waiting} already: try again later", retry_after)
            if not self.taken:
                self._moved = time.monotonic()
            self.taken += count

    def give(self, count: int = 1) -> None:
        """Gives room back."""
        with self._lock:
            self.taken -= count
            self._moved = time.monotonic()


class Request(Generic[T]):
    """A request that an event loop waits for while threads work on it.

    Attributes:
        begun: When it was accepted, in seconds of `time.monotonic`.
        dropped: Whether nobody waits for it any more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()
        self._readings: list[Future[Answer]] = []
        self.begun = time.monotonic()
        self.dropped = False

    @property
    def milliseconds(self) -> float:
        """Since it was accepted."""
        return (time.monotonic() - self.begun) * 1000

    def reads(self, reading: Future[Answer]) -> None:
        """Notes what is read for it, to be cancelled if the request is dropped."""
        self._readings.append(reading)

    def finish(self, result: T | BaseException) -> None:
        """Hands over the result, or what is raised instead; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._set, result)

    def _set(self, result: T | BaseException) -> None:
        if self._future.done():
            return
        if isinstance(result, BaseException):
            self._future.set_exception(result)
        else:
            self._future.set_result(result)

    async def result(self, seconds: float) -> T:
        """Waits for the result; what is left to do is dropped if that is not to be.

        Raises:
            asyncio.TimeoutError: There is none in time.
        """
        timer = self._loop.call_later(seconds, self._set, asyncio.TimeoutError())
        try:
            return await self._future
        except BaseException:
            self.dropped = True
            for reading in self._readings:
                reading.cancel()
            raise
        finally:
            timer.cancel()


class AnswersRequest(Request[list[ImageAnswer]]):
    """A request for answers about images.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._answers: dict[int, ImageAnswer] = {}
        self._count = count

    def put(self, index: int, answer: ImageAnswer) -> None:
        """Adds the answer for one image; the last one finishes the request."""
        with self._lock:
            self._answers[index] = answer
            done = len(self._answers) == self._count
        if done:
            self.finish([self._answers[i] for i in range(self._count)])
