"""Limits on the bytes of requests, counted as they arrive."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcd.config.serve import LimitsConfig
from bcd.serving.api.uploads import MEGABYTE
from bcd.serving.errors import (
    BusyError,
    HeadersTooLargeError,
    RequestError,
    SlowError,
    TooLargeError,
)
from bcd.serving.web.refusals import refuse

# Paths that take images; everything else takes only forms and JSON.
_UPLOADS = ("/predict", "/explain", "/images")
SMALL = 256 * 1024  # bytes of other requests
_PART = 1024  # bytes of a part beside its image
_TARGET = 2048  # bytes of an address with its query
_HEADERS, _HEADER_BYTES = 64, 16 * 1024
_PAUSE = 15.0  # seconds between two parts of a body
_COPIES = 2  # of each byte: in the body or its form, and in the image taken out of it
_SLOWEST = 10_000  # bytes per second after the first `limits.seconds`


class BodyLimits:
    """Refuses requests that are too large or too slow, before they are read to the end.

    Args:
        app: Gets the request next.
        limits: Of images and bytes.

    Attributes:
        room: Bytes that the bodies of all requests may hold together, copies included.
        held: Bytes that they hold, from their arrival to the answer.
    """

    def __init__(self, app: ASGIApp, limits: LimitsConfig) -> None:
        self.app = app
        self._seconds = limits.seconds
        one = int(limits.image_mb * MEGABYTE) + _PART
        parts = _PART * limits.images
        many = min(one * limits.images, int(limits.request_mb * MEGABYTE) + parts)
        self._one, self._many = one + SMALL, many + SMALL
        self.room = int(limits.memory_mb * MEGABYTE) + _COPIES * (SMALL + parts)
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length, chunked, error = _announced(scope)
        most = self._most(scope)
        if error is None and length > most:
            error = _too_large(most)
        if error is None and self.held + _COPIES * length > self.room:
            error = BusyError("Other uploads fill the memory: try again later.", retry_after=5)
        if error is not None:
            await refuse(error, scope, receive, send)
            return
        if not length and not chunked:
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive, send, most)
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            if body.error is None or body.started:
                raise
        finally:
            self.held -= _COPIES * body.arrived
        if body.error is not None and not body.started:
            await refuse(body.error, scope, receive, send)

    def _most(self, scope: Scope) -> int:
        path = scope["path"]
        if not path.endswith(_UPLOADS):
            return SMALL
        return self._one if path.endswith("/explain") else self._many

    def take(self, count: int) -> bool:
        """Takes room for bytes and their copies; whether there was any."""
        self.held += _COPIES * count
        return self.held <= self.room

    def deadline(self, started: float, arrived: int) -> float:
        """When a body must be complete, by the clock of `time.monotonic`."""
        return started + self._seconds + arrived / _SLOWEST


class _Body:
    """The body of one request."""

    def __init__(
        self, owner: BodyLimits, scope: Scope, receive: Receive, send: Send, most: int
    ) -> None:
        self._owner, self._scope, self._most = owner, scope, most
        self._receive, self._send = receive, send
        self._since, self._complete = time.monotonic(), False
        self.arrived, self.started = 0, False
        self.error: RequestError | None = None

    async def receive(self) -> Message:
        if self.error is not None:
            raise self.error
        if self._complete:  # only waits for the client to leave
            return await self._receive()
        left = self._owner.deadline(self._since, self.arrived) - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(left, _PAUSE)))
        except asyncio.TimeoutError:
            self._fail(SlowError("The body of the request did not arrive in time."))
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self.arrived += count
            self._complete = not message.get("more_body", False)
            room = self._owner.take(count)
            if self.arrived > self._most:
                self._fail(_too_large(self._most))
            if not room:
                self._fail(BusyError("Other uploads fill the memory: try again later.", 5))
        return message

    def _fail(self, error: RequestError) -> None:
        self.error = error
        raise error

    async def send(self, message: Message) -> None:
        # A parser between here and the route may have made another error of ours.
        if self.error is not None and not self.started:
            return
        self.started = True
        await self._send(message)


def _announced(scope: Scope) -> tuple[int, bool, RequestError | None]:
    """Length of the body, whether it is chunked, and what is wrong with the headers."""
    length, chunked, count = 0, False, 0
    for name, value in scope["headers"]:
        count += len(name) + len(value)
        if name == b"content-length":
            if not value.isdigit() or len(value) > 15:
                return 0, False, RequestError("The header Content-Length is not valid.")
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    target = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if count > _HEADER_BYTES or len(scope["headers"]) > _HEADERS or target > _TARGET:
        return 0, False, HeadersTooLargeError("The address or the headers are too long.")
    return length, chunked, None


def _too_large(most: int) -> RequestError:
    return TooLargeError(f"The request has more than {most:,} bytes.")
