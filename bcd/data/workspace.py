"""What the scan computes of each image, kept in a temporary file until later steps need it.

A cold run needs every image several times: for its hash, image statistics, keypoints and features.
The scan reads and decodes each file once and writes the other results here. The file has one fixed
place for each part of each image, so that several processes can write to it, and it is read with
`pread`, so that it does not count as memory of the process. It is deleted when it is closed, also
when the process is killed.

Results are found by the sha256 of the file they were computed from, and only as long as the file
has the size, inode and times that it had before it was read. Otherwise, and where there is no room
or no `pread`, callers read the file again, which notices whether its content has changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.frames import split_frame
from bcd.storage import cache_dir

# Bytes that the file may take: 25,000 images of 224 pixels a side. At most half of the free space
# is used.
MOST_BYTES = 4_000_000_000

Stamp = tuple[int, ...]


def file_stamp(path: Path) -> Stamp:
    """Size, times of modification and change, inode and device; empty if there is no such file.

    Args:
        path: The file, also with `#<number>` of a picture in it.
    """
    try:
        facts = split_frame(path)[0].stat()
    except OSError:
        return ()
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev


def pixels_part(side: int) -> str:
    """Name of the part that holds an image resized to (side, side, 3)."""
    return f"pixels {side}"


@dataclass(frozen=True)
class Slots:
    """The places of a workspace's file; forked processes inherit the file and write to it.

    Attributes:
        descriptor: Of the open file.
        count: Number of images.
        parts: Data type of each part; the parts that come first are kept of most images.
        limit: Size in bytes that the file may have.
    """

    descriptor: int
    count: int
    parts: Mapping[str, np.dtype[Any]]
    limit: int

    def write(self, number: int, part: str, value: NDArray[Any]) -> bool:
        """Writes a part of an image; returns whether there was room for it."""
        place, data = self._place(number, part), np.ascontiguousarray(value).tobytes()
        if sys.platform == "win32" or place + len(data) > self.limit:
            return False
        try:
            return os.pwrite(self.descriptor, data, place) == len(data)
        except OSError:  # the disk is full
            return False

    def read(self, number: int, part: str) -> NDArray[Any] | None:
        """Reads a part of an image in the shape of its type; None if it cannot be read."""
        if sys.platform == "win32":
            return None
        dtype = self.parts[part]
        try:
            data = os.pread(self.descriptor, dtype.itemsize, self._place(number, part))
        except OSError:
            return None
        if len(data) < dtype.itemsize:
            return None
        if dtype.subdtype is not None:
            return np.frombuffer(bytearray(data), dtype.base).reshape(dtype.shape)
        return np.frombuffer(bytearray(data), dtype).reshape(())

    def _place(self, number: int, part: str) -> int:
        before = 0
        for name, dtype in self.parts.items():
            if name == part:
                return before * self.count + number * dtype.itemsize
            before += dtype.itemsize
        raise KeyError(part)


class Workspace:
    """Parts of images by the sha256 of their files.

    Args:
        slots: Where the parts are written.
    """

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._numbers: dict[tuple[str, str], int] = {}
        self._stamps: dict[str, Stamp] = {}
        self._close = weakref.finalize(self, os.close, slots.descriptor)

    @classmethod
    def create(cls, count: int, parts: Mapping[str, np.dtype[Any]]) -> Workspace | None:
        """Makes the file for a number of images; None if this machine has no place for it."""
        if sys.platform == "win32":  # it has no pread
            return None
        with contextlib.suppress(OSError):
            cache_dir().mkdir(parents=True, exist_ok=True)
            limit = min(MOST_BYTES, shutil.disk_usage(cache_dir()).free // 2)
            with tempfile.TemporaryFile(dir=cache_dir()) as stream:
                return cls(Slots(os.dup(stream.fileno()), count, parts, limit))
        return None

    def state(self) -> Any:
        """What another process needs, besides the open file, to read the same parts."""
        return replace(self.slots, descriptor=-1), self._numbers, self._stamps

    @classmethod
    def attached(cls, descriptor: int, state: Any) -> Workspace:
        """The workspace of another process, from its open file and its `state`."""
        slots, numbers, stamps = state
        made = cls(replace(slots, descriptor=descriptor))
        made._numbers, made._stamps = numbers, stamps
        return made

    def add(self, number: int, sha256: str, written: Sequence[str]) -> None:
        """Records which parts of an image were written."""
        for part in written:
            self._numbers.setdefault((sha256, part), number)

    def stamp(self, path: Path, stamp: Stamp) -> None:
        """Records the stamp that a file had before it was read."""
        self._stamps[str(path)] = stamp

    def get(self, path: Path, sha256: str, part: str) -> NDArray[Any] | None:
        """A part of an image; None if it was not kept or the file has been touched."""
        number = self._numbers.get((sha256, part))
        if number is None:
            return None
        stamp = file_stamp(path)
        if not stamp or stamp != self._stamps.get(str(path)):
            return None
        return self.slots.read(number, part)
