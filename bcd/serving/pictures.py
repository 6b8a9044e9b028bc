"""Pictures made from uploaded images, held in memory for a while.

They are made again if they are needed again. None is held for longer than `SECONDS`, so that a
picture does not outlive an image that was erased by another server process or by its age.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool

from bcd.serving.errors import BusyError, NotFoundError

if TYPE_CHECKING:
    from bcd.serving.engine.explain import Explanation
    from bcd.serving.engine.queue import Engine
    from bcd.serving.records.cases import Case, CaseImage
    from bcd.serving.services import Services

SECONDS = 600.0
MEGABYTES = 64.0
THUMBNAIL, LARGE = 192, 1024  # pixels of the longer side
_PAUSES = (0.1, 0.3, 1.0, 2.0)  # seconds until the engine is asked again if its queue is full

T = TypeVar("T")


class Held(Generic[T]):
    """Values of cases, the last ones used, within a number of bytes.

    Args:
        megabytes: Of all values.
        seconds: After which a value is forgotten.
    """

    def __init__(self, megabytes: float = MEGABYTES, seconds: float = SECONDS) -> None:
        self._most, self._seconds = megabytes * 1e6, seconds
        self._values: OrderedDict[tuple[str, Hashable], tuple[T, int, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, case_id: str, key: Hashable) -> T | None:
        """A value; None if it is not held."""
        with self._lock:
            found = self._values.get((case_id, key))
            if found is None:
                return None
            if found[2] < time.monotonic():
                self._drop((case_id, key))
                return None
            self._values.move_to_end((case_id, key))
            return found[0]

    def put(self, case_id: str, key: Hashable, value: T, size: int) -> None:
        """Holds a value of `size` bytes, and forgets the ones used longest ago."""
        with self._lock:
            self._drop((case_id, key))
            self._values[case_id, key] = value, size, time.monotonic() + self._seconds
            self._bytes += size
            while self._bytes > self._most:
                self._drop(next(iter(self._values)))

    def forget(self, case_id: str) -> None:
        """Forgets everything of a case."""
        with self._lock:
            for key in [key for key in self._values if key[0] == case_id]:
                self._drop(key)

    def _drop(self, key: tuple[str, Hashable]) -> None:
        if (found := self._values.pop(key, None)) is not None:
            self._bytes -= found[1]


class Pictures:
    """Makes and holds pictures of the images of cases."""

    def __init__(self) -> None:
        self._png: Held[bytes] = Held()
        self._explained: Held[Explanation] = Held()

    async def thumbnail(
        self, services: Services, case_id: str, image_id: str, side: int = THUMBNAIL
    ) -> bytes:
        """A PNG of the image, at most `side` pixels at its longer side.

        Raises:
            NotFoundError: The image is not held any more; so for the other pictures.
        """
        engine = services.engine
        return await _held(
            self._png, services, case_id, image_id, side, len,
            lambda content: engine.thumbnail(content, side),
        )  # fmt: skip

    async def outlined(self, services: Services, case_id: str, image_id: str) -> bytes:
        """A PNG of the image with its white cells outlined."""
        engine = services.engine
        return await _held(
            self._png, services, case_id, image_id, "cells", len, engine.outlined
        )  # fmt: skip

    async def explained(
        self, services: Services, case_id: str, image_id: str, target: str | None, site: str
    ) -> Explanation:
        """Where the loaded model's evidence for a class is, in an image of a site."""
        engine = services.engine
        return await _held(
            self._explained, services, case_id, image_id, target,
            lambda made: len(made.png) + made.found.nbytes,
            lambda content: engine.explain(content, target, site),
        )  # fmt: skip

    def forget(self, case_id: str) -> None:
        """Forgets the pictures of a case."""
        self._png.forget(case_id)
        self._explained.forget(case_id)


async def _held(
    held: Held[T],
    services: Services,
    case_id: str,
    image_id: str,
    kind: Hashable,
    size: Callable[[T], int],
    make: Callable[[bytes], Awaitable[T]],
) -> T:
    key = (image_id, kind)
    if (found := held.get(case_id, key)) is None:
        found = await _patiently(make, await content_of(services, case_id, image_id))
        held.put(case_id, key, found, size(found))
        if await run_in_threadpool(services.records.image, case_id, image_id) is None:
            held.forget(case_id)  # erased meanwhile
    return found


async def _patiently(make: Callable[[bytes], Awaitable[T]], content: bytes) -> T:
    # A page with a hundred pictures should not have holes because others upload.
    for seconds in _PAUSES:
        try:
            return await make(content)
        except BusyError:
            await asyncio.sleep(seconds)
    return await make(content)


async def content_of(services: Services, case_id: str, image_id: str) -> bytes:
    """An image as uploaded.

    Raises:
        NotFoundError: It is not held any more.
    """
    found = await run_in_threadpool(services.records.image, case_id, image_id)
    if found is None:
        raise NotFoundError("This image is not held any more.")
    return found


def no_evidence(services: Services, case: Case, image: CaseImage, target: str) -> str:
    """Why the evidence for a class in an image cannot be shown; empty if it can."""
    if case.model_sha256 != services.engine.identity.sha256:
        return (
            "The evidence cannot be shown: another model is loaded now than the one that answered "
            "this case."
        )
    way = services.engine.ways.get(case.site)
    if way is None or way.match_sha256 != image.answer.match:
        return (
            "The evidence cannot be shown: images of this site are matched otherwise now than when "
            "this one was answered."
        )
    if target and target not in case.classes:
        return "The model has no such class."
    return ""


def pictures_of(services: Services) -> Pictures:
    """The pictures of a server."""
    return _PICTURES.setdefault(services.engine, Pictures())


_PICTURES: WeakKeyDictionary[Engine, Pictures] = WeakKeyDictionary()
