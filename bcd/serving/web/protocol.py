"""HTTP/1.1 connections whose headers have an end."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0  # until the headers of a request have arrived
HEAD_BYTES = 64 * 1024  # of a request's line and headers
LINGER_SECONDS = 10.0  # in which the rest of a refused body is read and dropped
LINGER_BYTES = 64_000_000  # of that rest


class Protocol(HttpToolsProtocol):
    """Uvicorn's connection, which by itself waits for headers of any length, for any time.

    The rest of a refused body is read for a while before the connection is closed, because a client
    that is still sending does not read an answer from a connection that was closed.
    """

    _timer: asyncio.TimerHandle | None = None
    _state = "head"  # of the request that arrives: head, body
    _count = 0  # bytes of its head, or of its refused body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time for the first request."""
        super().connection_made(transport)
        self._expect(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what arrived unless it is too much."""
        if self._state == "head":
            self._count += len(data)
        super().data_received(data)
        if self._state == "head" and not self.transport.is_closing():
            if self._count > HEAD_BYTES:
                self.send_400_response("The headers are too long.")
            elif self._timer is None and self.timeout_keep_alive_task is None:
                self._expect(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """Ends the time for the headers."""
        self._state, self._count = "body", 0
        self._expect(None)
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

    def _expect(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
