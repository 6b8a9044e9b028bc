"""Reads the members of untrusted tar archives one after the other; nothing is extracted.

Python's `tarfile` keeps every member in memory, and reads extended headers and sparse maps of any
size. Here a header is at most `_LONGEST_HEADER` bytes, and only one member is in memory.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bcd.data.dicom.header import START, is_dicom
from bcd.data.files import ImageError, check_length, has_image_suffix
from bcd.data.frames import has_no_suffix
from bcd.data.items import Item

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_BLOCK = 512
_LONGEST_HEADER = 1 << 20  # bytes of a long name or an extended header
_MOST_HEADERS = 16  # in front of one member
_CHUNK = 1 << 20  # bytes that are skipped at a time
# Images are compressed already. More than this is an archive that was made to fill a disk.
_EXPANSION, _FREE = 100, 1 << 30
_LINKS, _DEVICES, _PIPE, _IGNORED = b"12", b"34", b"6", b"5g"
_SPARSE = b"S"
_WITHOUT_DATA = b"123456"
_FILES = b"0\x007"
_CUT_OFF = "the archive is cut off"
_LARGEST = 1 << 50  # bytes, more than any disk holds


class _DamagedError(Exception):
    """Why an archive cannot be read further, in a few words."""


def is_archive(path: Path) -> bool:
    """Whether this is a file with the suffix of an archive."""
    return path.name.lower().endswith(SUFFIXES) and os.path.isfile(path)  # noqa: PTH113


def archive_items(path: Path, name: str) -> Iterator[Item]:
    """Yields the images in an archive, in its order.

    Members that are not named like images are left out, as in folders. A member that cannot be
    used, and an archive that is damaged from some place on, are items with the reason.

    Args:
        path: A tar archive, plain or compressed by gzip.
        name: What rows call it; a member is called `<name>/<member>`.
    """
    count = 0
    try:
        with path.open("rb") as file:
            compressed = not path.name.lower().endswith(".tar")
            stream = _Stream(file, compressed)
            for member in _members(stream):
                item = _item(member, stream, name)
                count += item is not None
                if item is not None:
                    yield replace(item, archive=(path, name))
    except (OSError, EOFError, zlib.error, _DamagedError) as error:
        images = f"{count} image{'s' * (count != 1)}"
        yield Item(name, reason=f"cannot be read after {images} ({_why(error)})")


def _why(error: Exception) -> str:
    if isinstance(error, gzip.BadGzipFile):
        return "not compressed by gzip, or damaged"
    return getattr(error, "strerror", None) or str(error)


class _Stream:
    """The bytes of an archive, from front to end.

    Args:
        file: The archive.
        compressed: Whether by gzip.
    """

    def __init__(self, file: IO[bytes], compressed: bool) -> None:
        self._file, self._compressed = file, compressed
        self._bytes: Any = gzip.GzipFile(fileobj=file) if compressed else file
        self._read = 0

    def read(self, length: int) -> bytes:
        """The next bytes.

        Raises:
            _DamagedError: There are fewer, or too many come out of too few.
        """
        data = self.some(length)
        if len(data) < length:
            raise _DamagedError(_CUT_OFF)
        return data

    def some(self, length: int) -> bytes:
        """The next bytes, fewer at the end."""
        data: bytes = self._bytes.read(length)
        self._read += len(data)
        if self._compressed and self._read > _FREE + _EXPANSION * self._file.tell():
            raise _DamagedError(f"it expands more than {_EXPANSION} times")
        return data

    def skip(self, length: int) -> None:
        """Leaves out bytes."""
        if not self._compressed and length > _CHUNK:
            self._file.seek(length - 1, 1)
            length = 1
        while length > 0:
            length -= len(self.read(min(length, _CHUNK)))


@dataclass
class _Member:
    """A member of an archive.

    Attributes:
        name: Its path in the archive.
        kind: The byte that says what it is.
        unread: Number of its bytes that are still to be read.
    """

    name: str
    kind: bytes
    unread: int


def _members(stream: _Stream) -> Iterator[_Member]:
    """Yields members; whatever was not read of one when the next is asked for is left out."""
    changes: dict[str, str] = {}
    headers = 0
    while (member := _header(stream)) is not None:
        if member.kind in b"xLK":
            headers += 1
            if member.unread > _LONGEST_HEADER or headers > _MOST_HEADERS:
                raise _DamagedError("a header is too large")
            changes |= _changes(member.kind, stream.read(member.unread))
            stream.skip(-member.unread % _BLOCK)
            continue
        member.name = changes.get("path", member.name)
        if "size" in changes:
            member.unread = _number(changes["size"], 10)
        if member.kind in _WITHOUT_DATA:
            member.unread = 0
        if any(name.startswith("GNU.sparse") for name in changes):
            member.kind = _SPARSE
        changes, headers = {}, 0
        padding = -member.unread % _BLOCK
        yield member
        stream.skip(member.unread + padding)
    if headers:
        raise _DamagedError(_CUT_OFF)


def _header(stream: _Stream) -> _Member | None:
    """The next header; None at the end of the archive."""
    block = stream.some(_BLOCK)
    if not any(block):  # also of a file that ends here, without the usual zeros
        return None
    if len(block) < _BLOCK:
        raise _DamagedError(_CUT_OFF)
    stated = _number(block[148:156].decode("ascii", "replace").strip(" \0") or "0", 8)
    if stated != sum(block[:148]) + sum(block[156:]) + 8 * ord(" "):
        raise _DamagedError("not a tar archive, or damaged")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    member = _Member(name, block[156:157], _size(block[124:136]))
    if member.kind == _SPARSE and block[482]:
        _skip_sparse_map(stream)
    return member


def _skip_sparse_map(stream: _Stream) -> None:
    """Leaves out the blocks that continue the header of a sparse file."""
    for _ in range(_LONGEST_HEADER // _BLOCK):
        if not stream.read(_BLOCK)[504]:
            return
    raise _DamagedError("a header is too large")


def _size(field: bytes) -> int:
    if field[0] != 0x80:
        return _number(field.decode("ascii", "replace").strip(" \0") or "0", 8)
    return _bounded(int.from_bytes(field[1:], "big"))  # a large number, in binary


def _number(text: str, base: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise _DamagedError("a header has no valid number")
    try:
        return _bounded(int(text, base))
    except ValueError as error:
        raise _DamagedError("a header has no valid number") from error


def _bounded(number: int) -> int:
    if number > _LARGEST:
        raise _DamagedError("a member is larger than any disk")
    return number


def _changes(kind: bytes, data: bytes) -> dict[str, str]:
    """What a header in front of a member says about it."""
    if kind != b"x":
        return {"path": _text(data)} if kind == b"L" else {}
    found = {}
    while data and data[0]:
        length, _, rest = data.partition(b" ")
        size = _number(length.decode("ascii", "replace"), 10)
        if not len(length) + 1 < size <= len(data):
            raise _DamagedError("an extended header is damaged")
        key, _, value = rest[: size - len(length) - 1].removesuffix(b"\n").partition(b"=")
        found[_text(key)] = value.decode("utf-8", "surrogateescape")
        data = data[size:]
    return found


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _item(member: _Member, stream: _Stream, archive: str) -> Item | None:
    """The item of a member, whose bytes are read; None if it is no image.

    It is one if it is named like one or, without a suffix, begins as a DICOM file.
    """
    start = b""
    if member.kind in _IGNORED or member.name.endswith("/"):
        return None
    if not has_image_suffix(member.name):
        start = _start(member, stream)
        if not is_dicom(start):
            return None
    name = f"{archive}/{member.name}"
    place = PurePosixPath(member.name)
    if "\0" in member.name:
        return Item(name, reason="cannot be read (its name has a zero byte)")
    if place.is_absolute() or ".." in place.parts:
        return Item(name, reason="not read (its name leads out of the archive)")
    if member.kind in _LINKS:
        return Item(name, reason="cannot be read (a link in an archive)")
    if member.kind == _PIPE:
        return Item(name, reason="cannot be read (a pipe)")
    if member.kind in _DEVICES:
        return Item(name, reason="cannot be read (not a file but a device)")
    if member.kind not in _FILES:
        return Item(name, reason="cannot be read (a kind of member that is not supported)")
    try:
        check_length(len(start) + member.unread)
    except ImageError as error:
        return Item(name, reason=str(error))
    data, member.unread = start + stream.read(member.unread), 0
    return Item(name, data=data)


def _start(member: _Member, stream: _Stream) -> bytes:
    """The first bytes of a file without a suffix, which are read; none of any other member."""
    plain = member.kind in _FILES and member.unread >= START
    if not plain or not has_no_suffix(PurePosixPath(member.name).name):
        return b""
    member.unread -= START
    return stream.read(START)
