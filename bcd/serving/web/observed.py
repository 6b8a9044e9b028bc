"""Request ids, security headers, a line of log and figures for every request."""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from pathlib import Path

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcd.serving.errors import InternalError, UnavailableError
from bcd.serving.web.metrics import Metrics
from bcd.serving.web.refusals import refuse

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_CACHE = (b"cache-control", b"no-store")  # unless the route says otherwise
_CACHE_STATIC = (b"cache-control", b"no-cache")  # kept, and asked for with its ETag
UNMATCHED = "unmatched"  # route of requests for which there is none

log = structlog.get_logger("bcd.serving")


class Observed:
    """Watches every request, and turns what nobody foresaw into a problem without details.

    A request that is cancelled, which only a stop of the server does, gets 503.

    Of a request only method, route, status, milliseconds, user and request id are logged: no
    address of an image, no name of a file, no query.

    Args:
        app: Gets the request next.
        metrics: Counts it.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = with_headers(message["headers"], scope, request_id)
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except asyncio.CancelledError:  # the server does not wait any longer for requests to end
            if not status:
                stopping = UnavailableError("The server is stopping.", retry_after=5)
                await refuse(stopping, scope, receive, sending)
            raise
        except Exception as error:
            log.error("failed", request=request_id, **_place(error))
            if status:  # the answer has begun: the connection is closed instead
                raise
            await refuse(InternalError("The server's log says more."), scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - started, request_id)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self._metrics.request(scope["method"], route, status, seconds)
        user = scope["state"].get("user")
        log.info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            user=None if user is None else user.name,
            request=request_id,
        )


def with_headers(
    headers: list[tuple[bytes, bytes]], scope: Scope, request_id: str
) -> list[tuple[bytes, bytes]]:
    """Headers of an answer, with those that are the same for all added unless it has them.

    Args:
        headers: Of the answer.
        scope: Of the request; its path and scheme.
        request_id: Of the request.
    """
    given = {name.lower() for name, _ in headers}
    cache = _CACHE_STATIC if scope["path"].startswith("/static/") else _CACHE
    more = [*_HEADERS, cache, *([_HSTS] if scope["scheme"] == "https" else [])]
    added = [(name, value) for name, value in more if name not in given]
    return [*headers, *added, (b"x-request-id", request_id.encode())]


def _place(error: BaseException) -> dict[str, str]:
    """What is logged of an exception: its class and where, as its message may quote the request."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-4:]]
    return {"kind": type(error).__name__, "where": " ".join(where)}
