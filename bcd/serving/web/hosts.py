"""Which host names the server answers to."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from bcd.config.serve import LOOPBACK, ServeConfig
from bcd.serving.errors import MisdirectedError
from bcd.serving.web.refusals import refuse

# Asked by programs at whatever address they know; contain nothing personal.
OPEN_PATHS = ("/healthz", "/readyz", "/metrics")

_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/\\\s]+))(:[0-9]{1,5})?")


class AllowedHosts:
    """Refuses other hosts than the server's own.

    A page of another site could otherwise give its own name the server's address (DNS rebinding)
    and read answers in the browser of somebody who is logged in.

    Args:
        app: Gets the request next.
        cfg: Its `url` and `host` are allowed, as are the names of loopback. Where the server
            listens beyond loopback, so is every address that is no name.
    """

    def __init__(self, app: ASGIApp, cfg: ServeConfig) -> None:
        self.app = app
        self._names = {*LOOPBACK, cfg.host.lower()}
        if name := urlsplit(cfg.url or "").hostname:
            self._names.add(name)
        self._addresses = cfg.host not in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._allows(scope):
            await self.app(scope, receive, send)
        else:
            error = MisdirectedError(
                "This server does not answer to that host: see its option url."
            )
            await refuse(error, scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            return False
        host = _HOST.fullmatch(given[0].decode("latin-1").lower())
        if host is None:
            return False
        name = host["address"] or host["name"]
        if name in self._names:
            return True
        return self._addresses and _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
