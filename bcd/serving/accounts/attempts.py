"""Limits failed logins."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from bcd.serving.errors import BusyError

_ADDRESS_FACTOR = 10  # a whole ward may share an address
_KNOWN = 10_000  # users and addresses that are remembered


class Attempts:
    """Counts failed logins of the last minute by name and by address, in memory.

    Whoever keeps failing with a name locks it, and with many names an address. So that people at
    work are not locked out, failures of a user at an address from which that user has logged in
    since the server started are counted apart, and a locked address is not locked for that user.

    Args:
        per_minute: Failures of one name; of one address, ten times as many.
    """

    def __init__(self, per_minute: int) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._per_name = RateLimitItemPerMinute(per_minute, namespace="name")
        self._per_address = RateLimitItemPerMinute(
            per_minute * _ADDRESS_FACTOR, namespace="address"
        )
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()  # names and addresses
        self._lock = threading.Lock()

    def knows(self, key: str, address: str) -> bool:
        """Whether the user has logged in from this address since the server started."""
        return (key, _network(address)) in self._known

    def begin(self, key: str, address: str) -> None:
        """Counts an attempt as failed until it succeeds, so that none slips through beside another.

        Args:
            key: Of the user, whether or not there is one.
            address: Of the client; empty if it has logged in already.

        Raises:
            BusyError: Too many attempts of the last minute have failed.
        """
        free = not address or self.knows(key, address)
        free = free or self._limiter.test(self._per_address, _network(address))
        if not free or not self._limiter.hit(self._per_name, *self._counter(key, address)):
            raise BusyError("Too many failed logins; try again in a minute", 60)

    def failed(self, key: str, address: str) -> None:
        """Counts a failure of an address."""
        if not self.knows(key, address):
            self._limiter.hit(self._per_address, _network(address))

    def succeeded(self, key: str, address: str) -> None:
        """Forgets the failures of a user who has now logged in, and remembers the address."""
        self._limiter.clear(self._per_name, *self._counter(key, address))
        if not address:
            return
        with self._lock:
            self._known[key, _network(address)] = None
            self._known.move_to_end((key, _network(address)))
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)

    def _counter(self, key: str, address: str) -> tuple[str, ...]:
        return (key, _network(address)) if self.knows(key, address) else (key,)


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
