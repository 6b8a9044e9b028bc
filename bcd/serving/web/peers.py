"""Who sends a request, behind reverse proxies too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class Peers:
    """Believes X-Forwarded-For and X-Forwarded-Proto of trusted proxies only.

    `scope["bcd.peer"]` is the address at the other end of the connection, which may be a proxy;
    `scope["client"]` then is the proxy's client.

    Args:
        app: Gets the request next.
        trusted: Addresses of proxies.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self.app = app
        if trusted:
            wrapped = ProxyHeadersMiddleware(cast(Any, app), list(trusted))
            self.app = cast(ASGIApp, wrapped)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        client = scope.get("client")
        scope["bcd.peer"] = client[0] if client else ""
        await self.app(scope, receive, send)
