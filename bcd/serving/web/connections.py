"""Limits on the number of connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcd.serving.errors import UnavailableError
from bcd.serving.web.hosts import OPEN_PATHS
from bcd.serving.web.peers import is_trusted
from bcd.serving.web.refusals import refuse

MOST = 500  # connections that are served
EACH = 100  # of one address, unless it is a trusted proxy's
CROWDED = "bcd.crowded"  # in the scope of a request whose connection is beyond that


class Connections:
    """Counts connections by address.

    Args:
        trusted: Addresses of proxies, whose clients are many.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = trusted
        self._count: Counter[str] = Counter()

    def add(self, address: str) -> bool:
        """Counts a connection; whether it is beyond the limits."""
        self._count[address] += 1
        many = self._count[address] > EACH and not is_trusted(address, self._trusted)
        return many or self._count.total() > MOST

    def remove(self, address: str) -> None:
        """A connection has ended."""
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]

    @property
    def full(self) -> bool:
        """Whether there are so many that one more is not even answered."""
        return self._count.total() > 3 * MOST // 2


class ConnectionLimits:
    """Refuses requests of connections beyond the limits, and has those connections closed.

    Args:
        app: Gets the request next.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if not scope.get(CROWDED):
            await self.app(scope, receive, send)
            return

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        if scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, closing)
        else:
            error = UnavailableError("Too many connections: try again later.", retry_after=5)
            await refuse(error, scope, receive, closing)
