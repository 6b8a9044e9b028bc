"""Reads predicted images a second time, as long as they are still those that were predicted."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from bcd.config.programs import PredictConfig
from bcd.data.items import Item, with_bytes
from bcd.errors import BcdError
from bcd.inference.batch.inputs import open_inputs


class SecondReading:
    """Passes images on, and gives each once more; holds none of their bytes meanwhile.

    Files are read here and passed on with their bytes, so that what is predicted is known. They
    are read again, and archives once more from front to end.

    Args:
        cfg: Says what the images are.
    """

    def __init__(self, cfg: PredictConfig) -> None:
        self._waiting: deque[tuple[Item, str]] = deque()
        self._again = _items(cfg)

    def first(self, items: Iterator[Item]) -> Iterator[Item]:
        """Passes items on, with the bytes of their files."""
        for item in items:
            own = with_bytes(item)
            self._waiting.append((replace(item, data=None), _sha256(own)))
            yield own

    def take(self) -> tuple[Item, str]:
        """The next item, without bytes, and their sha256; in the order of `first`."""
        return self._waiting.popleft()

    def read(self, item: Item, sha256: str) -> Item:
        """An item that `take` gave, with the bytes that were predicted.

        Items of archives are given in the order of `first`, each at most once.

        Raises:
            BcdError: There are other bytes now, or none.
        """
        if item.path is not None:
            own = with_bytes(item)
            if own.reason:
                raise BcdError(own.reason)
            if _sha256(own) != sha256:
                raise BcdError("the file has changed since it was predicted")
            return own
        for other in self._again:
            same = other.name == item.name and other.data is not None
            if same and _sha256(other) == sha256:
                return other
        raise BcdError("the archives no longer have it as it was predicted")


def _items(cfg: PredictConfig) -> Iterator[Item]:
    """The images of the inputs; these are opened when the first is asked for."""
    inputs = [cfg.input] if isinstance(cfg.input, str) else cfg.input
    yield from open_inputs([str(text) for text in inputs], cfg.input_column).items


def _sha256(item: Item) -> str:
    return hashlib.sha256(item.data or b"").hexdigest()
