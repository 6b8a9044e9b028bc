"""Reads the bytes of image files: only regular files of bounded size, with bounded total memory."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bcd.data.walk import folder_reason

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
SUFFIXES = DICOM_SUFFIXES | {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}

# More than an image of `MAX_PIXELS` takes uncompressed with 8 bits a channel.
MAX_BYTES = 320_000_000


class ImageError(Exception):
    """A file that cannot be used as an image; the message is the reason, in a few words."""


class UnreadableError(ImageError):
    """A file that cannot be read now (no permission, a failing disk); this may be temporary."""


class Gate:
    """Lets threads acquire amounts as long as their sum stays within a capacity.

    Requests are served in order, so that small amounts do not keep a large one waiting.

    Args:
        capacity: Largest sum; a larger request is granted when nothing else is held.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Waits until there is room, and holds the amount while the block runs."""
        amount = min(amount, self._capacity)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_BYTES = Gate(MAX_BYTES)  # of encoded files held by threads of this process


def room_for(path: Path | None) -> contextlib.AbstractContextManager[None]:
    """Waits until there is memory for a file's bytes; enter it before reading them.

    None is for bytes that are in memory already.
    """
    try:
        return contextlib.nullcontext() if path is None else _BYTES.taking(path.stat().st_size)
    except OSError:
        return contextlib.nullcontext()


def check_length(length: int) -> None:
    """Checks the number of bytes of an image file.

    Raises:
        ImageError: There are none, or more than `MAX_BYTES`.
    """
    if not length:
        raise ImageError("empty file")
    if length > MAX_BYTES:
        raise ImageError(f"too large ({length / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f})")


def read_bytes(path: Path) -> bytes:
    """Returns an image file's bytes.

    Raises:
        ImageError: It has no image suffix, is not a regular file (a folder, a pipe, a device), is
            empty or larger than `MAX_BYTES`, or cannot be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(folder_reason(path) or _no_image(path))
    with _regular(path) as (stream, length):
        check_length(length)
        data = stream.read(length)
    check_length(len(data))
    return data


def _no_image(path: Path) -> str:
    if path.suffix[1:].isdecimal() or not path.suffix:  # such as IM000001, or a UID
        return "not an image file (without a suffix; DICOM files need .dcm)"
    return f"not an image file (type '{path.suffix}')"


def read_start(path: Path, most: int) -> tuple[bytes, int]:
    """Returns the first bytes of a file, at most so many, and how many it has in all.

    Raises:
        ImageError: It is not a regular file, or cannot be read.
    """
    with _regular(path) as (stream, length):
        return stream.read(most), length


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Opens a regular file to read, and says how many bytes it has."""
    try:
        _refuse_irregular(path.stat().st_mode)  # opening a device may have side effects
        # If a pipe has replaced the file meanwhile, opening does not wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as stream:  # noqa: PTH123  (of a descriptor)
            facts = os.fstat(stream.fileno())
            _refuse_irregular(facts.st_mode)
            yield stream, facts.st_size
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name with a zero byte
        raise ImageError(f"cannot be read ({error})") from error


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _refuse_irregular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of another kind")
        raise UnreadableError(f"cannot be read (not a file but {kind})")
