"""Reads the bytes of image files: only regular files of bounded size, with bounded total memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bcd.data.dicom.header import START, is_dicom
from bcd.data.frames import (
    DICOM_SUFFIXES,
    has_no_suffix,
    is_dicomdir,
    picture_sha256,
    split_frame,
)
from bcd.data.walk import folder_reason

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

    Args:
        path: The file, also with `#<number>` of a picture in it; None if the bytes are in memory.
    """
    try:
        if path is None:
            return contextlib.nullcontext()
        return _BYTES.taking(split_frame(path)[0].stat().st_size)
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


def has_image_suffix(name: str) -> bool:
    """Whether a file has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is listed as an image.

    It is if it has the suffix of one; without any suffix, if it begins as a DICOM file, or cannot
    be read, so that the reason is told. Files with a suffix are not opened.
    """
    name = os.path.basename(path)  # noqa: PTH119
    if has_image_suffix(name):
        return True
    if not has_no_suffix(name):
        return False
    try:
        return begins_as_dicom(Path(path))
    except ImageError:
        return os.path.isfile(path)  # noqa: PTH113  (never raises)


def read_bytes(path: Path) -> bytes:
    """Returns an image file's bytes.

    Raises:
        ImageError: It has neither an image suffix nor, without any, the beginning of a DICOM file;
            it is not a regular file (a folder, a pipe, a device), is empty or larger than
            `MAX_BYTES`, or cannot be read.
    """
    named = has_image_suffix(path.name)
    if not named and not has_no_suffix(path.name):
        raise ImageError(folder_reason(path) or _no_image(path))
    if not named and (why := folder_reason(path)):
        raise ImageError(why)
    with _regular(path) as (stream, length):
        if not named:
            if not is_dicom(stream.read(START)):
                raise ImageError("not an image file (it has no suffix, and is not DICOM)")
            stream.seek(0)
        check_length(length)
        data = stream.read(length)
    check_length(len(data))
    return data


@dataclass(frozen=True)
class Encoded:
    """An image as it is in its file.

    Attributes:
        data: The file's bytes.
        frame: Number of the picture in them, from 1 on; None for the only one.
    """

    data: bytes
    frame: int | None = None

    @property
    def sha256(self) -> str:
        """Of the picture (`picture_sha256`)."""
        return picture_sha256(hashlib.sha256(self.data).hexdigest(), self.frame)


def read_encoded(path: Path) -> Encoded:
    """Reads an image without decoding it.

    Args:
        path: The file, or `<file>#<number>` for a picture of a DICOM file of several.

    Raises:
        ImageError: As `read_bytes`.
    """
    file, frame = split_frame(path)
    return Encoded(read_bytes(file), frame)


def _no_image(path: Path) -> str:
    if is_dicomdir(path.name):
        return "not an image file (the table of contents of a medium)"
    return f"not an image file (type '{path.suffix}')"


def begins_as_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file does, whatever its name.

    Raises:
        ImageError: As `read_start`.
    """
    return is_dicom(read_start(path, START)[0])


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
