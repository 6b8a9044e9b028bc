"""The files of a watch folder: finding, reading and moving them.

Every file is reached from the watch folder, one folder after the other, and no link is followed:
nothing outside is read or changed, also if a folder is replaced by a link meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bcd.data.files import has_image_suffix

DONE, FAILED = "done", "failed"
REASON = ".txt"  # added to the name of a failed file

_TEMPORARY = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download")
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_LONGEST_SUFFIX = 16  # bytes; what is longer is cut like the rest of a name


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
    def is_named_image(self) -> bool:
        """Whether it has the name of one."""
        return has_image_suffix(self.parts[-1])


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
    with _opened(root, found) as stream:
        if found.signature.size > most:
            raise TooLongError
        data = stream.read(found.signature.size + 1)
        facts = Signature.of(os.fstat(stream.fileno()))
    if facts != found.signature or len(data) != found.signature.size:
        raise ChangedError
    return data


def read_start(root: Path, found: Found, count: int) -> bytes:
    """The first bytes of a file; raises as `read`."""
    with _opened(root, found) as stream:
        return stream.read(count)


@contextlib.contextmanager
def _opened(root: Path, found: Found) -> Iterator[IO[bytes]]:
    *folders, name = found.parts
    with open_folder(root, folders) as folder:
        stream = os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb")
    with stream:
        if Signature.of(os.fstat(stream.fileno())) != found.signature:
            raise ChangedError
        yield stream


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
        with _free_name(target, name, REASON if why else "") as (chosen, held):
            if why:  # before the file is moved, as the disk may be full
                _write(target, held, why)
            os.rename(name, chosen, src_dir_fd=source, dst_dir_fd=target)
            try:
                _check_same(target, chosen, found)
            except ChangedError:  # replaced or written to in the last moment
                with _free_name(source, name) as (free, _):
                    os.rename(chosen, free, src_dir_fd=target, dst_dir_fd=source)
                raise
            if why:
                os.rename(held, chosen + REASON, src_dir_fd=target, dst_dir_fd=target)


def _check_same(folder: int, name: str, found: Found) -> None:
    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if Signature.of(facts) != found.signature:
        raise ChangedError


@contextlib.contextmanager
def _free_name(folder: int, name: str, beside: str = "") -> Iterator[tuple[str, str]]:
    """A name that is free: the name, or that with a number, shortened if it is too long.

    It is held for as long as the context by a hidden file, whose name comes second, so that no
    other server takes it. One that is killed leaves that file, and nothing that looks like an
    image; the name is then not used again.

    Args:
        folder: Where it is free.
        name: That is wanted.
        beside: The name with that at its end is free, too.
    """
    longest = os.fpathconf(folder, "PC_NAME_MAX") - len(beside)
    for number in itertools.count(1):
        chosen = _numbered(name, number, longest)
        held = f".bcd-{hashlib.sha256(os.fsencode(chosen)).hexdigest()[:32]}"
        try:
            os.close(os.open(held, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=folder))
        except FileExistsError:
            continue
        try:
            if not _exists(folder, chosen) and not (beside and _exists(folder, chosen + beside)):
                yield chosen, held
                return
        finally:
            with contextlib.suppress(OSError):  # the reason, which has got its name
                os.unlink(held, dir_fd=folder)


def _numbered(name: str, number: int, longest: int) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  (keeps bytes that are no UTF-8)
    if len(os.fsencode(suffix)) > _LONGEST_SUFFIX:
        stem, suffix = name, ""
    if number > 1:
        suffix = f" ({number}){suffix}"
    room = longest - len(os.fsencode(suffix))
    encoded = os.fsencode(stem)
    if len(encoded) > room:
        stem = encoded[:room].decode(errors="ignore")  # no half of a character
    return stem + suffix


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(folder: int, name: str, text: str) -> None:
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "w", encoding="utf-8") as stream:
        stream.write(f"{text}\n")


def remove_empty(root: Path, parts: Sequence[str]) -> None:
    """Removes a folder if it is empty."""
    with contextlib.suppress(OSError), open_folder(root, parts[:-1]) as folder:
        os.rmdir(parts[-1], dir_fd=folder)
