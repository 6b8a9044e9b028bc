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

from bcd.config.serve import ServeConfig
from bcd.serving.accounts.user import key_of
from bcd.serving.errors import BusyError, RequestError
from bcd.serving.web.hosts import OPEN_PATHS
from bcd.serving.web.peers import is_trusted
from bcd.serving.web.refusals import refuse

_KNOWN = 10_000  # credentials whose user is remembered


class RateLimits:
    """Limits the requests per minute of each user, and of each address before login.

    What came with a token or cookie counts for its user if the last request with it was that
    user's, and for the address otherwise, so that made-up tokens get nobody a new count. Where a
    trusted proxy names the user, it counts for the one named; cookies mean nothing there.

    Args:
        app: Gets the request next.
        cfg: Its limit, and its proxies.
    """

    def __init__(self, app: ASGIApp, cfg: ServeConfig) -> None:
        self.app = app
        self._limit = RateLimitItemPerMinute(cfg.limits.requests_per_minute)
        self._proxy = cfg.proxy
        self._cookies = cfg.proxy.user_header is None
        self._counts = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._users: OrderedDict[bytes, str] = OrderedDict()  # by digest of the credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        credentials = self._credentials(scope)
        user = self._users.get(credentials) or self._named(scope)
        key = f"user {user}" if user else f"address {_network(scope)}"
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

    def _credentials(self, scope: Scope) -> bytes:
        """A digest of what a request may be known by; empty if there is nothing."""
        given = [
            value
            for name, value in scope["headers"]
            if (name == b"cookie" and self._cookies)
            or (name == b"authorization" and value.lower().startswith(b"bearer "))
        ]
        return sha256(b"\0".join(given)).digest() if given else b""

    def _named(self, scope: Scope) -> str:
        """The user that a trusted proxy names; empty if it names none."""
        header = (self._proxy.user_header or "").lower().encode("latin-1", "replace")
        names = [value for name, value in scope["headers"] if header and name == header]
        if len(names) != 1 or not is_trusted(scope.get("bcd.peer", ""), self._proxy.trusted):
            return ""
        try:
            return key_of(names[0].decode("latin-1").strip())
        except RequestError:
            return ""

    def _note(self, credentials: bytes, scope: Scope, status: int) -> None:
        user = scope.get("state", {}).get("user")
        if user is not None:
            self._users[credentials] = user.name.lower()
            self._users.move_to_end(credentials)
            if len(self._users) > _KNOWN:
                self._users.popitem(last=False)
        elif status == 401:
            self._users.pop(credentials, None)


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
