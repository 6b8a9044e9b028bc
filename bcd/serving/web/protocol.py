"""HTTP/1.1 connections whose headers have an end, and whose answers are read."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bcd.serving.api.problems import MEDIA_TYPE, Problem
from bcd.serving.web.connections import CROWDED, Connections
from bcd.serving.web.observed import with_headers

HEAD_SECONDS = 15.0  # until the headers of a request have arrived
CROWDED_SECONDS = 3.0  # the same, on a connection that will be refused
HEAD_BYTES = 64 * 1024  # of a request's line and headers
LINGER_SECONDS = 10.0  # in which the rest of a refused body is read and dropped
LINGER_BYTES = 64_000_000  # of that rest
READING_SECONDS = 30.0  # in which a client has to take some of an answer
READING_BYTES = 4096  # of that some, if there is so much

log = structlog.get_logger("bcd.serving")


class Protocol(HttpToolsProtocol):
    """Uvicorn's connection, which by itself waits for headers of any length, for any time.

    The rest of a refused body is read for a while before the connection is closed, because a client
    that is still sending does not read an answer from a connection that was closed. A client that
    does not read its answer is cut, one on a slow line is not.

    Args:
        given: As of uvicorn's.
        named: As of uvicorn's.
        held: Counts the connections of the server; None: only this one.
    """

    _crowded = False

    _timer: asyncio.TimerHandle | None = None
    _state = "head"  # of the request that arrives: head, body
    _count = 0  # bytes of its head, or of its refused body
    _reading: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, held: Connections | None = None, **named: Any) -> None:
        super().__init__(*given, **named)
        self._held = held or Connections()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts the connection, and starts the time for its first request."""
        super().connection_made(transport)
        self._crowded = self._held.add(self._address)
        if self._held.full:
            transport.abort()
        transport.set_write_buffer_limits(0)  # writing is paused as long as anything is unsent
        self._expect(CROWDED_SECONDS if self._crowded else HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._held.remove(self._address)
        self._expect(None)
        self._stop_reading()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what arrived unless it is too much."""
        if self._state == "head":
            self._count += len(data)
        super().data_received(data)
        if self._state == "head" and not self.transport.is_closing():
            if self._count > HEAD_BYTES:
                self.send_400_response("The headers are too long.")
            elif self._is_idle() and self._timer is None and self.timeout_keep_alive_task is None:
                self._expect(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """Ends the time for the headers."""
        self._state, self._count = "body", 0
        self._expect(None)
        self.scope[CROWDED] = self._crowded  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Passes a part of a body on; drops it if the request was refused."""
        super().on_body(body)
        if self.cycle.response_complete:
            self._count += len(body)
            if self._count > LINGER_BYTES:
                self.transport.close()

    def on_message_complete(self) -> None:
        """Expects the next request."""
        self._state, self._count = "head", 0
        self._expect(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Waits for the rest of a body that was refused."""
        super().on_response_complete()
        if self._state == "body":
            self._expect(LINGER_SECONDS)

    def pause_writing(self) -> None:
        """Looks from time to time whether the client reads."""
        super().pause_writing()
        self._watch_reading(None)

    def resume_writing(self) -> None:
        """Everything was sent."""
        self._stop_reading()
        super().resume_writing()

    def _watch_reading(self, before: int | None) -> None:
        """Cuts the connection unless the client has read since there were so many bytes unsent."""
        unsent = _unsent(self.transport)
        if before is not None and unsent > before - READING_BYTES:
            self.transport.abort()
            return
        self._stop_reading()
        self._reading = self.loop.call_later(READING_SECONDS, self._watch_reading, unsent)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request like every other problem, and closes the connection."""
        if self.cycle is not None and self.cycle.response_started and not self._is_idle():
            self.transport.close()  # it would be taken for a part of that answer
            return
        request_id = secrets.token_hex(8)
        log.info("no request", status=400, request=request_id)
        body = Problem(title="Bad request", status=400, detail=msg, request_id=request_id)
        content = body.model_dump_json().encode()
        given = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(content)),
            (b"connection", b"close"),
        ]
        scope = {"path": "", "scheme": self.scheme}
        lines = [b"%s: %s\r\n" % pair for pair in with_headers(given, scope, request_id)]
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + b"".join(lines) + b"\r\n" + content)
        self.transport.close()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _expect(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the client has not got, also those in the system's buffer where it tells."""
    count = transport.get_write_buffer_size()
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl
        import termios

        held = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        count += struct.unpack("i", held)[0]
    return count
