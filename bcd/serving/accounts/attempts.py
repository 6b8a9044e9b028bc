"""Limits failed logins."""

from __future__ import annotations

import ipaddress

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from bcd.serving.errors import BusyError

_ADDRESS_FACTOR = 10  # a whole ward may share an address


class Attempts:
    """Counts failed logins of the last minute by name and by address, in memory.

    Args:
        per_minute: Failures of one name; of one address, ten times as many.
    """

    def __init__(self, per_minute: int) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._per_name = RateLimitItemPerMinute(per_minute, namespace="name")
        self._per_address = RateLimitItemPerMinute(
            per_minute * _ADDRESS_FACTOR, namespace="address"
        )

    def begin(self, key: str, address: str) -> None:
        """Counts an attempt as failed until it succeeds, so that none slips through beside another.

        Args:
            key: Of the user, whether or not there is one.
            address: Of the client; empty if it has logged in already.

        Raises:
            BusyError: Too many attempts of the last minute have failed.
        """
        network = _network(address)
        free = not address or self._limiter.test(self._per_address, network)
        if not free or not self._limiter.hit(self._per_name, key):
            raise BusyError("Too many failed logins; try again in a minute", 60)

    def failed(self, address: str) -> None:
        """Counts a failure of an address."""
        self._limiter.hit(self._per_address, _network(address))

    def succeeded(self, key: str) -> None:
        """Forgets the failures of a user who has now logged in."""
        self._limiter.clear(self._per_name, key)


def _network(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 address, of which one client has a whole one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
