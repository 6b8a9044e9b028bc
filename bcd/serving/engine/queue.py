"""The queue in front of the reading processes and the model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from bcd.config.environment import core_count
from bcd.config.serve import LimitsConfig
from bcd.data.cells.outlines import TILE
from bcd.data.input_views import views_to_read
from bcd.data.items import Answer, Fault, Item, Wanted
from bcd.data.sandbox import Readers
from bcd.data.shown import OUTLINED, REDUCED, Picture
from bcd.errors import BcdError
from bcd.inference.model import Model
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.engine.answering import STOPPING, Answering, Upload
from bcd.serving.engine.explain import Explanation, encode_png, explain, find_target
from bcd.serving.engine.making import unreadable
from bcd.serving.engine.requests import AnswersRequest, Request, Room
from bcd.serving.engine.self_test import drawn_upload
from bcd.serving.engine.sites import AS_TRAINED, Way, way_of
from bcd.serving.engine.turns import BEYOND, Turns, asker
from bcd.serving.errors import (
    RequestError,
    TimedOutError,
    UnavailableError,
    UnprocessableError,
)
from bcd.serving.records.cases import NewImage

T = TypeVar("T")

log = structlog.get_logger(__name__)

MOST_READERS = 8
MOST_IMAGES = 8  # of one call, for a model that takes any number


class Engine:
    """Answers uploaded images; its coroutines may run in any event loop.

    Images are decoded in separate processes within limits of time and memory, never in this one.

    Args:
        model: It answers.
        identity: Of the model.
        limits: Sizes and times.
        batch: Images of one call of the model at most; None for what suits the model.
        ways: How images of each site are answered, by its name; None: there is one site, without
            a name, whose images are answered as the model was trained.

    Attributes:
        identity: As given.
        ways: As given.
    """

    def __init__(
        self,
        model: Model,
        identity: ModelIdentity,
        limits: LimitsConfig,
        batch: int | None = None,
        ways: Mapping[str, Way] | None = None,
    ) -> None:
        self.identity = identity
        self.ways = {"": AS_TRAINED} if ways is None else dict(ways)
        self._model, self._limits = model, limits
        self._room = Room(limits.queue)
        facts = model.facts
        wanted = Wanted(views_to_read(facts.input_views), facts.mask_scale_bar)
        processes = min(MOST_READERS, core_count())
        # A reading process that hangs is replaced while its request still waits.
        self._readers = Readers(wanted, processes, limits.seconds / 2)
        self._turns = Turns(self._readers, processes)
        most = batch or model.batch or MOST_IMAGES
        self._answering = Answering(model, identity, self._turns, self._room.give, most)
        self._explaining = ThreadPoolExecutor(1, "explaining")
        self._asked: set[Request[Any]] = set()  # somebody waits for these
        self._stopping = self._ended = False

    @property
    def model(self) -> Model:
        """It answers."""
        return self._model

    @property
    def waiting(self) -> int:
        """Number of images that wait or are answered."""
        return self._room.taken

    async def answer(self, images: Sequence[bytes], site: str = "") -> list[ImageAnswer]:
        """Answers images, in order; one that cannot be read has the reason in `error`.

        Args:
            images: Encoded, as uploaded.
            site: Where they are from.

        Raises:
            UnprocessableError: The server has no such site.
            BusyError: The queue has no room for all of them.
            TooLargeError: It never has.
            TimedOutError: There are no answers in time.
            UnavailableError: The server is stopping, or no image can be answered.
        """
        way = way_of(self.ways, site)
        if not images:
            return []
        self._take(len(images))
        request = AnswersRequest(len(images))
        for index, data in enumerate(images):
            self._answering.put(Upload(request, index, data, way))
        return await self._result(request)

    def refuse(self, image: NewImage, site: str = "") -> ImageAnswer:
        """What is said about an image that is known to be unreadable; see `NewImage.error`."""
        way_of(self.ways, site)
        answer = unreadable(image.data, image.error, self.identity, 0.0)
        return replace(answer, sha256=image.source.sha256) if image.source else answer

    async def explain(
        self, image: bytes, target: str | None = None, site: str = ""
    ) -> Explanation:  # fmt: skip
        """Shows where in an image the evidence for a class is.

        Args:
            image: Encoded, as uploaded.
            target: The class; None for the predicted one.
            site: Where it is from.

        Raises:
            UnprocessableError: There is no such class or site, or the image cannot be read or
                answered.
            RequestError: As in `answer`.
        """
        wanted, match = find_target(self.identity, target), way_of(self.ways, site).match
        begun = time.monotonic()

        def make(packed: NDArray[np.uint8]) -> Explanation:
            turn = self._answering.turn
            return explain(self._model, self.identity, packed, wanted, turn, begun)

        item = Item("", data=image, match=match)
        return await self.read_one(item, make, self._explaining)

    async def thumbnail(self, image: bytes, side: int) -> bytes:
        """A PNG of an image without metadata, upright, with so many pixels a side at most.

        Raises:
            UnprocessableError: The image cannot be read.
            RequestError: As in `answer`.
        """
        item = Item("", data=image, picture=Picture(REDUCED, side))
        return await self.read_one(item, encode_png)

    async def outlined(self, image: bytes) -> bytes:
        """A PNG of an image with outlines of white cells (green) and their nuclei (yellow).

        Raises:
            UnprocessableError: The image cannot be read.
            RequestError: As in `answer`.
        """
        item = Item("", data=image, picture=Picture(OUTLINED, TILE))
        return await self.read_one(item, encode_png)

    def ready(self) -> str:
        """Why images cannot be answered; empty if they can."""
        if self._stopping:
            return STOPPING
        if self._room.stuck > self._limits.seconds and not self._only_readers_wait():
            return f"no image has been answered for {self._room.stuck:.0f} s"
        return self._answering.health.check()

    def _only_readers_wait(self) -> bool:
        """Whether all that waits is being read, and there is a reading process for more."""
        return self._readers.free and self._room.taken <= self._readers.busy

    def check(self) -> None:
        """Has a drawn smear read and answered, which also starts a reading process.

        Raises:
            BcdError: It gets no answer.
        """
        reading = self._readers.submit(Item("", data=drawn_upload()))
        packed = reading.result()
        if isinstance(packed, str):
            self._end(0)
            raise BcdError(f"images cannot be read on this machine: a drawn smear {packed}")

    async def close(self) -> None:
        """Stops: accepts nothing, and waits for what was accepted, for `limits.stop_seconds`.

        Requests that still wait then get an `UnavailableError`.
        """
        self._stopping = True
        last = time.monotonic() + self._limits.stop_seconds
        while self._asked and time.monotonic() < last:
            await asyncio.sleep(0.02)
        if not self._ended:
            await asyncio.to_thread(self._end, 1.0)

    def _end(self, seconds: float) -> None:
        """Ends processes and threads."""
        self._stopping = self._ended = True
        for request in list(self._asked):
            request.finish(UnavailableError(STOPPING))
        self._answering.end()
        self._turns.close()
        self._readers.close()
        self._answering.close(seconds)
        self._explaining.shutdown(wait=False, cancel_futures=True)

    def _take(self, count: int) -> None:
        """Takes room in the queue, or says why not."""
        if why := self.ready():
            raise UnavailableError(why, 10)
        soon = max(1, math.ceil(self._answering.latency))
        self._room.take(count, soon, BEYOND.get(asker.get(), 0))

    async def read_one(
        self,
        item: Item,
        make: Callable[[NDArray[np.uint8]], T],
        pool: ThreadPoolExecutor | None = None,
    ) -> T:
        """Has one image read, and makes something of it.

        Args:
            item: What is read.
            make: Gets what was read, in a thread of `pool` or in the one that has waited for it.
            pool: Of threads; None for the one that has waited.

        Raises:
            UnprocessableError: It cannot be read.
            RequestError: As in `answer`, or what `make` raises.
        """
        self._take(1)
        request: Request[T] = Request()

        def finish(reading: Future[Answer]) -> None:
            result: T | BaseException = UnavailableError(STOPPING)
            try:
                if not (self._ended or request.dropped or reading.cancelled()):
                    found = reading.result()
                    if isinstance(found, Fault):
                        self._answering.health.failed()
                    result = make(_readable(found))
            except RequestError as error:
                result = error
            except Exception as error:
                log.error("an image could not be shown", error=type(error).__name__)
                result = UnprocessableError("this cannot be shown")
            self._room.give()
            request.finish(result)

        reading = self._turns.submit(item)
        request.reads(reading)
        reading.add_done_callback(finish if pool is None else partial(_submitted, pool, finish))
        return await self._result(request)

    async def _result(self, request: Request[T]) -> T:
        self._asked.add(request)
        try:
            return await request.result(self._limits.seconds)
        except asyncio.TimeoutError as error:
            seconds = self._limits.seconds
            raise TimedOutError(f"no answer within {seconds:g} s: try again later") from error
        finally:
            self._asked.discard(request)


def _readable(answer: Answer) -> NDArray[np.uint8]:
    if isinstance(answer, str):
        raise UnprocessableError(answer)
    return answer


def _submitted(
    pool: ThreadPoolExecutor, finish: Callable[[Future[Answer]], None], reading: Future[Answer]
) -> None:
    """Has a thread of the pool finish; if the pool has ended, this one."""
    try:
        pool.submit(finish, reading)
    except RuntimeError:
        with suppress(Exception):
            finish(reading)
