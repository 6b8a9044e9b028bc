"""The files of a watch folder: finding, reading and moving them.

Every file is reached from the watch folder, one folder after the other, and no link is followed:
nothing outside is read or changed, also if a folder is replaced by a link meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.data.files import SUFFIXES

DONE, FAILED = "done", "failed"
REASON = ".txt"  # added to the name of a failed file

_TEMPORARY = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download")
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_ABANDONED = 60.0  # seconds, after which an empty name in `done` is nobody's


class ChangedError(Exception):
    """A file changes while it is read, or is another one than expected."""


class TooLongError(Exception):
    """A file has more bytes than allowed."""


@dataclass(frozen=True)
class Signature:
    """What changes when a file is written to or replaced."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Signature:
        """That of a file."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ino)


@dataclass(frozen=True)
class Found:
    """A file in a watch folder.

    Attributes:
        parts: Names of the folders below the watch folder, and of the file.
        signature: When it was found.
        regular: Whether it is a file, not a link, pipe or device.
    """

    parts: tuple[str, ...]
    signature: Signature
    regular: bool = True

    @property
    def is_image(self) -> bool:
        """Whether it can be one, by its name."""
        return self.regular and os.path.splitext(self.parts[-1])[1].lower() in SUFFIXES  # noqa: PTH122


@dataclass(frozen=True)
class Scan:
    """What a watch folder has, without what is done with.

    Attributes:
        files: All that are not temporary.
        empty: Folders without any entry.
        unreadable: Number of folders that could not be read.
    """

    files: tuple[Found, ...]
    empty: tuple[tuple[str, ...], ...]
    unreadable: int


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is not complete yet, or hidden."""
    return name.startswith((".", "~")) or name.endswith("~") or name.lower().endswith(_TEMPORARY)


def scan(root: Path) -> Scan:
    """Looks through a watch folder, but not through `done` and `failed`.

    Raises:
        OSError: The watch folder itself cannot be read.
    """
    files: list[Found] = []
    empty: list[tuple[str, ...]] = []
    unreadable = 0
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        try:
            entries = list(_entries(root, parts))
        except OSError:
            if not parts:
                raise
            unreadable += 1
            continue
        if parts and not entries:
            empty.append(parts)
        for name, facts in entries:
            if is_temporary(name) or (not parts and name in (DONE, FAILED)):
                continue
            if stat.S_ISDIR(facts.st_mode):
                waiting.append((*parts, name))
            else:
                regular = stat.S_ISREG(facts.st_mode)
                files.append(Found((*parts, name), Signature.of(facts), regular))
    return Scan(tuple(files), tuple(empty), unreadable)


def _entries(root: Path, parts: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    with open_folder(root, parts) as folder, os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # moved meanwhile
                yield entry.name, entry.stat(follow_symlinks=False)


@contextlib.contextmanager
def open_folder(root: Path, parts: Sequence[str], make: bool = False) -> Iterator[int]:
    """A descriptor of a folder below the watch folder.

    Args:
        root: The watch folder.
        parts: Names below it.
        make: Whether folders that are missing are made.

    Raises:
        OSError: It does not exist, is a link, or cannot be opened.
    """
    folder = os.open(root, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def read(root: Path, found: Found, most: int) -> bytes:
    """The bytes of a file.

    Args:
        root: The watch folder.
        found: The file.
        most: Bytes that it may have.

    Raises:
        ChangedError: It is not as it was found.
        TooLongError: It has more bytes.
        OSError: It cannot be read.
    """
    *folders, name = found.parts
    with open_folder(root, folders) as folder:
        stream = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
    with stream:
        if Signature.of(os.fstat(stream.fileno())) != found.signature:
            raise ChangedError
        if found.signature.size > most:
            raise TooLongError
        data = stream.read(found.signature.size + 1)
        facts = Signature.of(os.fstat(stream.fileno()))
    if facts != found.signature or len(data) != found.signature.size:
        raise ChangedError
    return data


def move(root: Path, found: Found, into: str, why: str = "") -> None:
    """Moves a file to the same place below `done` or `failed`; never over another file.

    Args:
        root: The watch folder.
        found: The file.
        into: `DONE` or `FAILED`.
        why: Is written beside it as text; empty for nothing.

    Raises:
        ChangedError: It is not as it was found; it stays, or is put back.
        OSError: It cannot be moved.
    """
    *folders, name = found.parts
    with (
        open_folder(root, folders) as source,
        open_folder(root, (into, *folders), make=True) as target,
    ):
        _check_same(source, name, found)
        chosen = _reserve(target, name, REASON if why else "")
        try:
            if why:
                _write(target, chosen + REASON, why)
            os.rename(name, chosen, src_dir_fd=source, dst_dir_fd=target)
        except OSError:
            for left in (chosen, chosen + REASON) if why else (chosen,):
                with contextlib.suppress(OSError):
                    os.unlink(left, dir_fd=target)
            raise
        try:
            _check_same(target, chosen, found)
        except ChangedError:  # replaced or written to in the last moment
            _put_back(source, name, target, chosen)
            raise


def _check_same(folder: int, name: str, found: Found) -> None:
    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if Signature.of(facts) != found.signature:
        raise ChangedError


def _reserve(folder: int, name: str, beside: str = "") -> str:
    """Makes an empty file of a name that is free: the name, or that with a number.

    With `beside`, the name with that at its end is free, too.
    """
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  (keeps bytes that are no UTF-8)
    number = 1
    while True:
        chosen = name if number == 1 else f"{stem} ({number}){suffix}"
        number += 1
        if _is_abandoned(folder, chosen):
            return chosen
        if beside and _exists(folder, chosen + beside):
            continue
        with contextlib.suppress(FileExistsError):
            os.close(os.open(chosen, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder))
            return chosen


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_abandoned(folder: int, name: str) -> bool:
    """Whether a name was reserved by a server that was killed before it moved the file."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    old = time.time() - facts.st_mtime > _ABANDONED
    return old and stat.S_ISREG(facts.st_mode) and not facts.st_size


def _write(folder: int, name: str, text: str) -> None:
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "w", encoding="utf-8") as stream:
        stream.write(f"{text}\n")


def _put_back(source: int, name: str, target: int, chosen: str) -> None:
    """Puts a file back where it was, beside one of the same name that has come since."""
    free = _reserve(source, name)
    os.rename(chosen, free, src_dir_fd=target, dst_dir_fd=source)
    with contextlib.suppress(OSError):
        os.unlink(chosen + REASON, dir_fd=target)


def remove_empty(root: Path, parts: Sequence[str]) -> None:
    """Removes a folder if it is empty."""
    with contextlib.suppress(OSError), open_folder(root, parts[:-1]) as folder:
        os.rmdir(parts[-1], dir_fd=folder)
