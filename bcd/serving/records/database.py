"""The database: SQLite or PostgreSQL, its settings, its migrations, and its errors."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bcd.errors import BcdError, ConfigError
from bcd.serving.errors import RequestError, StorageFullError, UnavailableError

WRITES = "bcd_writes"  # execution option of connections whose transactions write
_WAIT = 30  # seconds for another process's transaction
_ROOM = 1 << 20  # bytes; with less, an unspecific disk error means that the disk is full
_MIGRATION_LOCK = 0x626364  # key of PostgreSQL's advisory lock
_SQLITE_SETTINGS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",  # what is erased is overwritten
    f"busy_timeout={_WAIT * 1000}",
)


def database_url(records: str | None, folder: str) -> str:
    """The database's URL.

    Args:
        records: URL as configured; None for SQLite in `folder`.
        folder: `folder` of the configuration.
    """
    if records is not None:
        return records
    return f"sqlite:///{Path(folder).absolute() / 'records.sqlite'}"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases.

    Raises:
        ConfigError: It is no URL of SQLite or PostgreSQL, or SQLite without a file.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
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


def connect(url: str) -> Engine:
    """An engine with this project's settings; it does not connect yet.

    Transactions begin as `BEGIN`, and with the execution option `WRITES` as `BEGIN IMMEDIATE`,
    so that they see the last commit and never fail half-way.

    Raises:
        ConfigError: See `sqlite_file`.
    """
    file = sqlite_file(url)
    if file is not None:
        return _connect_sqlite(file)
    parsed = sa.make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        engine = sa.create_engine(
            parsed,
            pool_size=8,
            max_overflow=32,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10},
        )
    except ModuleNotFoundError:
        raise BcdError(
            "records: PostgreSQL needs psycopg: pip install 'bcd[serve,postgres]'"
        ) from None

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET synchronous_commit = on; SET lock_timeout = '{_WAIT}s'")
        connection.commit()

    return engine


def _connect_sqlite(file: Path) -> Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)),
        pool_size=8,
        max_overflow=32,
        connect_args={"timeout": _WAIT, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for setting in _SQLITE_SETTINGS:
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that writes; committed at the end unless the block raises."""
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        yield connection


def prepare(url: str) -> Engine:
    """Connects, and creates or migrates the tables.

    Raises:
        BcdError: The database cannot be used, or a newer version of bcd has written it.
        ConfigError: See `sqlite_file`.
    """
    file = sqlite_file(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives its other files the same permissions.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    engine = connect(url)
    shown = sa.make_url(url).render_as_string(hide_password=True)
    try:
        with writing(engine) as connection:
            migrate(connection)
    except (SQLAlchemyError, RequestError) as error:
        engine.dispose()
        cause = getattr(error, "orig", None) or error
        reason = " ".join(str(cause).split())
        raise BcdError(f"records: {shown}: {reason}: check the database, or records=") from error
    return engine


def migrate(connection: Connection) -> None:
    """Brings the tables to this version of bcd, in the transaction of the connection.

    Raises:
        BcdError: A newer version of bcd has written them.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":  # several processes may start at once
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    config = _alembic_config(connection)
    scripts = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found == scripts.get_current_head():
        return
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise BcdError(f"records: version {found} is of a newer bcd: upgrade bcd, or give records=")
    from alembic import command

    command.upgrade(config, "head")


def _alembic_config(connection: Connection) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def clean(engine: Engine) -> bool:
    """Overwrites what was deleted where the database still has copies of it.

    SQLite has copies in its write-ahead log, PostgreSQL in rows that it has not vacuumed.

    Returns:
        Whether it is done; False if readers prevent it at the moment.
    """
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        if engine.dialect.name == "sqlite":
            busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            return not busy
        driver: Any = raw.driver_connection
        driver.autocommit = True  # VACUUM runs outside of transactions
        cursor.execute("VACUUM texts, image_contents")
        driver.autocommit = False
        return True
    finally:
        raw.close()


def request_error(error: Exception, file: Path | None) -> RequestError | None:
    """The error of a request for an error of the database; None if it is another one.

    Args:
        error: Raised by SQLAlchemy or a driver.
        file: Of an SQLite database.
    """
    full = StorageFullError("The disk of the records is full: nothing was recorded.")
    gone = UnavailableError("The records cannot be used at present.", retry_after=10)
    if isinstance(error, PoolTimeoutError):
        return gone
    cause = error.orig if isinstance(error, DBAPIError) else error
    if getattr(cause, "sqlstate", None) in ("53100", "53200"):  # PostgreSQL: disk full, no memory
        return full
    if isinstance(cause, sqlite3.Error):
        text = str(cause)
        if "disk is full" in text or ("disk I/O error" in text and _no_room(file)):
            return full
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return full
    if isinstance(error, OperationalError | InterfaceError):
        return gone
    if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.IntegrityError):
        return gone
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return gone
    return None


def _no_room(file: Path | None) -> bool:
    try:
        return file is None or shutil.disk_usage(file.parent).free < _ROOM
    except OSError:
        return False
