"""The database: SQLite or PostgreSQL, its settings, its migrations, and its errors."""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bcd.errors import BcdError, ConfigError
from bcd.serving.errors import RequestError, StorageFullError, UnavailableError
from bcd.serving.records.sqlite import WAIT, WRITES, connect_sqlite, open_sqlite

_log = logging.getLogger(__name__)
# What a server logs; commands have their own line for it.
_request_log = logging.getLogger(f"{__name__}.requests")
_request_log.addHandler(logging.NullHandler())

_ROOM = 1 << 20  # bytes; if there are less, the disk is full
_FULL = {getattr(errno, name, errno.ENOSPC) for name in ("ENOSPC", "EDQUOT", "EFBIG")}
# Without these, a server that no longer answers would be waited for for hours.
_POSTGRESQL_SETTINGS = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
# Errors of the database, not of what it is asked; `DatabaseError` itself is one of a damaged file.
_GONE = (OperationalError, InterfaceError, ProgrammingError, PoolTimeoutError)


def database_url(records: str | None, folder: str) -> str:
    """The database's URL.

    Args:
        records: URL as configured; None or empty for SQLite in `folder`.
        folder: `folder` of the configuration.
    """
    if records:
        return records
    return f"sqlite:///{Path(folder).absolute() / 'records.sqlite'}"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases.

    Raises:
        ConfigError: It is no URL of SQLite or PostgreSQL, or SQLite without a file.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        raise ConfigError(
            "records: not a database URL, such as postgresql+psycopg://user@host/bcd"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return None
    if backend != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise ConfigError(
            f"records={parsed.render_as_string()}: must be sqlite:///<file> or "
            "postgresql+psycopg://user@host/<database>"
        )
    return Path(str(parsed.database))


def connect(url: str, read_only: bool = False) -> Engine:
    """An engine with this project's settings; it does not connect yet.

    Transactions begin as `BEGIN`, and with the execution option `WRITES` as `BEGIN IMMEDIATE`,
    so that they see the last commit and never fail half-way.

    Args:
        url: Of the database.
        read_only: Nothing can be written with it.

    Raises:
        ConfigError: See `sqlite_file`.
    """
    file = sqlite_file(url)
    if file is not None:
        return open_sqlite(file) if read_only else connect_sqlite(file)
    parsed = sa.make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        engine = sa.create_engine(
            parsed,
            pool_size=8,
            max_overflow=32,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args=_POSTGRESQL_SETTINGS,
        )
    except ModuleNotFoundError:
        raise BcdError(
            "records: PostgreSQL needs psycopg: pip install 'bcd[serve,postgres]'"
        ) from None

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET synchronous_commit = on; SET lock_timeout = '{WAIT}s'")
        connection.commit()

    return engine


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that writes; committed at the end unless the block raises."""
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def reading(engine: Engine, file: Path | None) -> Iterator[Connection]:
    """A connection in a transaction that reads.

    Args:
        engine: The database.
        file: Of an SQLite database.

    Raises:
        StorageFullError, UnavailableError: The block raised an error of the database.
    """
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
    except SQLAlchemyError as error:
        known = request_error(error, file)
        if known is None:
            raise
        raise known from error


def database_time(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, which all servers that use it share."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT (julianday('now') - 2440587.5) * 86400.0")
    else:
        found = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8")
    return float(found.scalar_one())


def check_connection(engine: Engine) -> None:
    """Connects once.

    Raises:
        BcdError: That is not possible.
    """
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":  # which opens the file when it is first read
                connection.exec_driver_sql("PRAGMA schema_version")
    except SQLAlchemyError as error:
        raise unusable(engine, error) from error


def unusable(engine: Engine, error: SQLAlchemyError) -> BcdError:
    """The error of a command that cannot use the database."""
    cause = getattr(error, "orig", error)
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    full = _is_full(cause, Path(file) if file else None)
    advice = "the disk is full: make room" if full else "check the database, or give another one"
    shown = engine.url.render_as_string(hide_password=True)
    return BcdError(f"records: {shown}: {' '.join(str(cause).split())}: {advice}")


def clean(engine: Engine, pauses: Sequence[float] = (0.05, 0.2, 1.0, 3.0)) -> None:
    """Removes copies of what was deleted from the database's files.

    SQLite has copies in its write-ahead log, which is emptied. PostgreSQL has them in old rows,
    which are vacuumed: their space is used again, and not overwritten before; its own write-ahead
    log and replicas keep them longer. Readers may prevent both; a server tries again every hour.

    Args:
        engine: The database.
        pauses: Seconds before each further try.
    """
    for pause in (0.0, *pauses):
        time.sleep(pause)
        if clean_once(engine):
            return
    _log.warning("records: database busy or disk full: a server overwrites copies of deleted data")


def clean_once(engine: Engine) -> bool:
    """As `clean`, without waiting; False if it is not possible at the moment."""
    errors: type[Exception] = engine.dialect.loaded_dbapi.Error
    try:
        raw = engine.raw_connection()
    except SQLAlchemyError:
        return False
    try:
        if engine.dialect.name == "sqlite":
            return _checkpoint(raw.cursor())
        driver: Any = raw.driver_connection
        driver.rollback()
        driver.autocommit = True  # VACUUM runs outside of transactions
        driver.execute("VACUUM texts, image_contents, jobs")
        driver.autocommit = False
        return True
    except errors as error:
        _request_log.warning("records: %s: %s", type(error).__name__, str(error).partition("\n")[0])
        raw.invalidate()
        return False
    finally:
        raw.close()


def _checkpoint(cursor: Any) -> bool:
    """Empties the write-ahead log of SQLite; waits for readers, but not for long."""
    cursor.execute("PRAGMA busy_timeout=200")
    try:
        return not cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        cursor.execute(f"PRAGMA busy_timeout={WAIT * 1000}")


def request_error(error: Exception, file: Path | None) -> RequestError | None:
    """The error of a request for an error of the database; None if it is another one.

    Args:
        error: Raised by SQLAlchemy or a driver.
        file: Of an SQLite database.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if _is_full(cause, file):
        known: RequestError = StorageFullError("The disk is full: nothing was recorded.")
    elif isinstance(error, _GONE) or type(error) is DatabaseError:
        known = UnavailableError("The records cannot be used at present.", retry_after=10)
    else:
        return None
    known.__cause__ = error
    # The first line, and no parameters, which may be personal.
    _request_log.error("records: %s: %s", type(cause).__name__, str(cause).partition("\n")[0])
    return known


def _is_full(cause: object, file: Path | None) -> bool:
    if isinstance(cause, OSError):
        return cause.errno in _FULL
    if isinstance(cause, sqlite3.Error):
        text = str(cause)
        return "disk is full" in text or ("disk I/O error" in text and _no_room(file))
    return getattr(cause, "sqlstate", None) == "53100"  # of PostgreSQL


def _no_room(file: Path | None) -> bool:
    """Whether a little more cannot be written: SQLite does not say that a quota is used up."""
    if file is None:
        return False
    try:
        with tempfile.TemporaryFile(dir=file.parent) as stream:
            stream.write(bytes(_ROOM))
    except OSError as error:
        return error.errno in _FULL
    return False
