"""Reads predicted images a second time, as long as they are still those that were predicted."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bcd.data.dicom.counting import each_frame
from bcd.data.items import Item, with_bytes
from bcd.errors import BcdError
from bcd.inference.batch.archive import archive_items


class SecondReading:
    """Passes images on, and gives each once more; holds none of their bytes meanwhile.

    Files are read here and passed on with their bytes, so that what is predicted is known. They
    are read again, and each archive once more from front to end.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Item, str]] = deque()
        self._again = _Members()

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

        Members of archives in the order of `first` are found fastest.

        Raises:
            BcdError: There are other bytes now, or none.
        """
        if item.archive is not None:
            return self._again.find(item.archive, item.name, sha256)
        own = with_bytes(item)
        if own.reason:
            raise BcdError(own.reason)
        if _sha256(own) != sha256:
            raise BcdError("the file has changed since it was predicted")
        return own


class _Members:
    """Finds members of archives: the next one at once, others by reading their archive anew."""

    def __init__(self) -> None:
        self._archive: tuple[Path, str] | None = None
        self._left: Iterator[Item] = iter(())
        # Names and sha256 of all members, once one was missing: others are not searched in vain.
        self._all: set[tuple[str, str]] | None = None

    def find(self, archive: tuple[Path, str], name: str, sha256: str) -> Item:
        """A member with this name and content, from the place of the last one that was found.

        Raises:
            BcdError: The archive has none now.
        """
        if archive != self._archive:
            self._archive, self._all = archive, None
            self._open()
        wanted = (name, sha256)
        if self._all is None or wanted in self._all:
            for item in self._left:
                if item.name == name and _sha256(item) == sha256:
                    return item
            self._open()
            passed: set[tuple[str, str]] = set()
            for item in self._left:
                found = (item.name, _sha256(item))
                if found == wanted:
                    return item
                passed.add(found)
            self._all = passed
            self._open()
        raise BcdError("the archive no longer has it as it was predicted")

    def _open(self) -> None:
        assert self._archive is not None
        self._left = each_frame(archive_items(*self._archive))


def _sha256(item: Item) -> str:
    return hashlib.sha256(item.data or b"").hexdigest()
