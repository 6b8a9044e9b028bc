"""The way of an image: a reading process, then the model, then back to its request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import structlog

from bcd.data.items import Answer, Fault, Item
from bcd.evaluation.decision import Decisions
from bcd.inference.model import Model
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.engine.deciding import Deciders, DroppedError
from bcd.serving.engine.health import Health
from bcd.serving.engine.making import NO_ANSWER, answered, unanswered, unreadable
from bcd.serving.engine.requests import AnswersRequest
from bcd.serving.engine.self_test import drawn_upload
from bcd.serving.engine.sites import AS_TRAINED, Way
from bcd.serving.engine.turns import Reads
from bcd.serving.errors import UnavailableError

log = structlog.get_logger(__name__)

STOPPING = "the server is stopping"


@dataclass(frozen=True)
class Upload:
    """An image that waits for its answer.

    Attributes:
        request: It belongs to this; None: it is the known one, which shows that images in general
            are answered.
        index: Its place in the request.
        data: Encoded.
        way: Of its site.
    """

    request: AnswersRequest | None
    index: int
    data: bytes
    way: Way = AS_TRAINED


class Answering:
    """Has images read and decided about.

    Args:
        model: It answers.
        identity: Of the model.
        readers: Read images.
        give: Gives room in the queue back, when an image of a request is done with.
        batch: Images of one call of the model at most.

    Attributes:
        health: Whether images in general are answered.
        latency: Seconds that the last answer took.
    """

    def __init__(
        self,
        model: Model,
        identity: ModelIdentity,
        readers: Reads,
        give: Callable[[], None],
        batch: int,
    ) -> None:
        self._identity, self._readers, self._give = identity, readers, give
        self._deciders: Deciders[Upload] = Deciders(model, batch, self._is_wanted, self._decided)
        self.health = Health(self._probe)
        self.latency = 0.0
        self._ended = False

    @property
    def turn(self) -> contextlib.AbstractContextManager[object]:
        """Is held while others use the model, if it can be used only once at a time."""
        return self._deciders.turn

    def end(self) -> None:
        """What is read from now on is given up, as reading processes are ended."""
        self._ended = True

    def close(self, seconds: float) -> None:
        """Ends the threads after what they have been given, or after so many seconds."""
        self._deciders.close(seconds)

    def put(self, upload: Upload) -> None:
        """Has an image read and answered."""
        reading = self._readers.submit(Item("", data=upload.data, match=upload.way.match))
        if upload.request is not None:
            upload.request.reads(reading)
        reading.add_done_callback(partial(self._was_read, upload))

    def _was_read(self, upload: Upload, reading: Future[Answer]) -> None:
        """Runs in a thread of the readers, or where the reading was cancelled."""
        if reading.cancelled() or self._ended or not self._is_wanted(upload):
            self._give_up(upload)
            return
        packed = "cannot be read" if reading.exception() else reading.result()
        if not isinstance(packed, str):
            self._deciders.put(upload, packed)
            return
        if isinstance(packed, Fault):
            self.health.failed()
        spent = self._spent(upload)
        self._answer(upload, unreadable(upload.data, packed, self._identity, spent))

    @staticmethod
    def _is_wanted(upload: Upload) -> bool:
        return upload.request is None or not upload.request.dropped

    def _decided(self, upload: Upload, found: Decisions | Exception, number: int) -> None:
        """Runs in a thread of the deciders."""
        spent = self._spent(upload)
        if isinstance(found, DroppedError):
            self._give_up(upload)
            return
        try:
            if isinstance(found, Exception):
                raise found
            answer = answered(upload.data, found, number, self._identity, spent, upload.way)
        except Exception as error:
            log.error("the model failed", error=type(error).__name__)
            self.health.failed()
            why = "the model failed on this image"
            answer = unanswered(upload.data, why, NO_ANSWER, self._identity, spent)
        else:
            if upload.request is not None:
                self.health.succeeded()
                self.latency = spent / 1000
        self._answer(upload, answer)

    @staticmethod
    def _spent(upload: Upload) -> float:
        return 0.0 if upload.request is None else upload.request.milliseconds

    def _answer(self, upload: Upload, answer: ImageAnswer) -> None:
        if upload.request is None:
            self.health.probed(answer.error)
            return
        self._give()
        upload.request.put(upload.index, answer)

    def _give_up(self, upload: Upload) -> None:
        if upload.request is None:
            return
        self._give()
        upload.request.finish(UnavailableError(STOPPING))

    def _probe(self) -> None:
        """Has a known image answered, without waiting for it."""
        if not self._ended:
            self.put(Upload(None, 0, drawn_upload()))
