"""HEAD wherever there is GET."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """Answers HEAD like GET, without the body, as FastAPI's routes do not.

    Args:
        app: Gets the request next.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def bare(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = dict(message, body=b"")
            await send(message)

        inner = dict(scope, method="GET")
        try:
            await self.app(inner, receive, bare)
        finally:
            scope["route"] = inner.get("route")  # for the log
