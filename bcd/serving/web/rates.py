"""Limits on the number of requests."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcd.serving.errors import BusyError
from bcd.serving.web.hosts import OPEN_PATHS
from bcd.serving.web.refusals import refuse

_KNOWN = 10_000  # credentials whose user is remembered


class RateLimits:
    """Limits the requests per minute of each user, and of each address before login.

    What came with a cookie, token or proxy's header counts for its user if the last request with it
    was that user's, and for the address otherwise, so that made-up tokens get nobody a new count.

    Args:
        app: Gets the request next.
        per_minute: Requests.
    """

    def __init__(self, app: ASGIApp, per_minute: int) -> None:
        self.app = app
        self._limit = RateLimitItemPerMinute(per_minute)
        self._counts = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._users: OrderedDict[bytes, str] = OrderedDict()  # by digest of the credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        credentials = _credentials(scope)
        user = self._users.get(credentials)
        key = f"user {user}" if user is not None else f"address {_network(scope)}"
        if not self._counts.hit(self._limit, key):
            until = self._counts.get_window_stats(self._limit, key).reset_time
            seconds = max(1, math.ceil(until - time.time()))
            error = BusyError("Too many requests: try again later.", retry_after=seconds)
            await refuse(error, scope, receive, send)
            return

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and credentials:
                self._note(credentials, scope, message["status"])
            await send(message)

        await self.app(scope, receive, noting)

    def _note(self, credentials: bytes, scope: Scope, status: int) -> None:
        user = scope.get("state", {}).get("user")
        if user is not None:
            self._users[credentials] = user.name
            self._users.move_to_end(credentials)
            if len(self._users) > _KNOWN:
                self._users.popitem(last=False)
        elif status == 401:
            self._users.pop(credentials, None)


def _credentials(scope: Scope) -> bytes:
    """A digest of what a request may be known by; empty if there is nothing."""
    given = [v for k, v in scope["headers"] if k in (b"authorization", b"cookie")]
    return sha256(b"\0".join(given)).digest() if given else b""


def _network(scope: Scope) -> str:
    """The address, or of IPv6 the network of 64 bits that one customer has."""
    client = scope.get("client")
    if not client:
        return ""
    try:
        address = ip_address(client[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)
