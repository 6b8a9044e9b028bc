"""Copies of the records, while the server runs."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from bcd.errors import BcdError
from bcd.serving.records.database import sqlite_file
from bcd.storage import PART


def existing(url: str) -> Path | None:
    """The file of an SQLite database; None for PostgreSQL.

    Raises:
        BcdError: There is no such file.
        ConfigError: The URL is not valid.
    """
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        raise BcdError(
            f"{file}: no records there: give --folder, or --records <URL>; the first start of the "
            "server makes them"
        )
    return file


def back_up(url: str, target: Path) -> None:
    """Writes a copy of an SQLite database as of one moment.

    Args:
        url: Of the database.
        target: A new file.

    Raises:
        BcdError: The target exists already, or the database cannot be copied, such as one of
            PostgreSQL, which has programs for that.
    """
    file = existing(url)
    if file is None:
        command = shlex.join(["pg_dump", "--format=custom", f"--file={target}", _address(url)])
        raise BcdError(f"records are in PostgreSQL, which has a command for that: {command}")
    _copy(file, target)


def restore(url: str, source: Path) -> None:
    """Makes a new SQLite database from a backup.

    Args:
        url: Of the new database.
        source: From `back_up`.

    Raises:
        BcdError: There are records already, or the backup cannot be read.
    """
    file = sqlite_file(url)
    if not source.is_file():
        raise BcdError(f"{source}: no such file")
    if file is None:
        command = shlex.join(["pg_restore", f"--dbname={_address(url)}", str(source)])
        raise BcdError(f"records are in PostgreSQL, which has a command for that: {command}")
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
        if file.with_name(name).exists():
            raise BcdError(f"{file.with_name(name)}: exists already: move these records away")
    _copy(source, file)


def _address(url: str) -> str:
    """An address for PostgreSQL's programs, without the password."""
    parsed = sa.make_url(url)._replace(drivername="postgresql", password=None)
    return parsed.render_as_string()


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        raise BcdError(f"{target}: exists already: give another file, or move it away")
    with _new_file(target) as part:
        try:
            place = f"{source.absolute().as_uri()}?mode=ro"
            with _connected(place) as old, _connected(part.absolute().as_uri()) as new:
                old.backup(new)
                new.execute("PRAGMA journal_mode=DELETE")  # one file; the server uses WAL again
        except sqlite3.Error as error:
            raise BcdError(f"{source}: cannot be copied: {error}") from error


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        yield connection


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """A file under a temporary name, readable by its owner only; gets its name if all went well."""
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.link(part, target)  # fails if it exists by now
        if os.name == "posix":  # elsewhere folders cannot be flushed
            folder = os.open(target.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except FileExistsError:
        raise BcdError(f"{target}: exists already: give another file, or move it away") from None
    finally:
        part.unlink(missing_ok=True)
