"""Notices when images in general cannot be answered any more, whatever is uploaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SUSPICIOUS = 3  # failures in succession after which a known image is tried
AGAIN_SECONDS = 10.0  # between tries of what failed


class Health:
    """Whether images can be answered.

    Uploads may be the reason of failures, so after some of them a known image is tried.

    Args:
        probe: Has a known image answered; the outcome comes through `probed`.

    Attributes:
        reason: Why no image can be answered; empty if they can.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._failures = 0
        self._next = 0.0
        self.reason = ""

    def succeeded(self) -> None:
        """An image was answered."""
        self._failures = 0

    def failed(self) -> None:
        """The model raised, or a reading process ended or was too slow."""
        self._failures += 1
        if self._failures >= _SUSPICIOUS:
            self._try()

    def probed(self, error: str) -> None:
        """The known image was tried.

        Args:
            error: Why it got no answer; empty if it got one.
        """
        self._failures = 0
        self.reason = f"no image can be answered: {error}" if error else ""

    def check(self) -> str:
        """The reason; while there is one, a known image is tried from time to time."""
        if self.reason:
            self._try()
        return self.reason

    def _try(self) -> None:
        with self._lock:
            if (now := time.monotonic()) < self._next:
                return
            self._next = now + AGAIN_SECONDS
        self._probe()
