"""Copies of the records, while the server runs."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from bcd.errors import BcdError
from bcd.serving.records.database import check_connection, connect, sqlite_file, unusable
from bcd.serving.records.schema import is_older
from bcd.serving.records.upgrade import prepare
from bcd.serving.records.verify import Verified, verify
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
    with _part(target) as part:
        _copy(file, part)
        _publish(part, target)


def restore(url: str, source: Path) -> Verified:
    """Makes a new SQLite database from a backup, if that is whole; one of an older bcd is migrated.

    Args:
        url: Of the new database.
        source: From `back_up`.

    Returns:
        What verifying has found; if there are problems, no database was made.

    Raises:
        BcdError: There are records already, or the backup cannot be read, or a newer bcd made it.
    """
    file = sqlite_file(url)
    if not source.is_file():
        raise BcdError(f"{source}: no such file")
    if file is None:
        command = shlex.join(["pg_restore", f"--dbname={_address(url)}", str(source)])
        raise BcdError(f"records are in PostgreSQL, which has a command for that: {command}")
    older = _is_older(source)
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
        if file.with_name(name).exists():
            raise BcdError(f"{file.with_name(name)}: exists already: move these records away")
    with _known_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with _part(file) as part:
        _copy(source, part)
        if older:
            prepare(_sqlite_url(part)).dispose()
        found = verify(_sqlite_url(part))
        if not found.problems:
            _publish(part, file)
    return found


def _is_older(file: Path) -> bool:
    engine = connect(_sqlite_url(file), read_only=True)
    check_connection(engine)
    try:
        with engine.connect() as connection:
            return is_older(connection)
    except SQLAlchemyError as error:
        raise unusable(engine, error) from error
    finally:
        engine.dispose()


def _sqlite_url(file: Path) -> str:
    return sa.URL.create("sqlite", database=str(file.absolute())).render_as_string()


def _address(url: str) -> str:
    """An address for PostgreSQL's programs, without the password."""
    parsed = sa.make_url(url)._replace(drivername="postgresql", password=None)
    return parsed.render_as_string()


def _copy(source: Path, part: Path) -> None:
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
def _part(target: Path) -> Iterator[Path]:
    """A file under a temporary name, readable by its owner only; removed at the end."""
    if target.exists():
        raise BcdError(f"{target}: exists already: give another file, or move it away")
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    with _known_errors(target):
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with _known_errors(target):
            yield part
    finally:
        for name in (part.name, f"{part.name}-wal", f"{part.name}-shm"):
            part.with_name(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _known_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BcdError(f"{target}: cannot be written: {error.strerror}") from error


def _publish(part: Path, target: Path) -> None:
    """Gives a file its name when it is on the disk."""
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    try:
        os.link(part, target)  # fails if it exists by now
    except FileExistsError:
        raise BcdError(f"{target}: exists already: give another file, or move it away") from None
    if os.name == "posix":  # elsewhere folders cannot be flushed
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
