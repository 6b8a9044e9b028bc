"""Who sends a request, behind reverse proxies too."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address, ip_network
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


def is_trusted(peer: str, trusted: Sequence[str]) -> bool:
    """Whether the other end of a connection is a trusted proxy.

    Args:
        peer: Its address.
        trusted: Addresses and networks of proxies.
    """
    try:
        address = ip_address(peer)
    except ValueError:
        return peer in trusted
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in ip_network(entry, strict=False) for entry in trusted)
