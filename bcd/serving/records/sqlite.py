"""SQLite: how a file is opened, reserved for one server, and looked over."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event

from bcd.errors import BcdError

WRITES = "bcd_writes"  # execution option of connections whose transactions write
WAIT = 30  # seconds for another process's transaction
_SETTINGS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",  # what is erased is overwritten
    f"busy_timeout={WAIT * 1000}",
)


def connect_sqlite(file: Path) -> Engine:
    """An engine that reads and writes a file; see `bcd.serving.records.database.connect`."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)),
        pool_size=8,
        max_overflow=32,
        hide_parameters=True,  # logs must not hold what people typed
        connect_args={"timeout": WAIT, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def open_sqlite(file: Path) -> Engine:
    """An engine that reads a file and cannot change it.

    Args:
        file: Of a database that may be in use.
    """
    uri = f"{file.absolute().as_uri()}?mode=ro"
    log = file.with_name(f"{file.name}-wal")
    if not os.access(file.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
        uri += "&immutable=1"  # else SQLite has to make files beside it, to see what is written

    def _open() -> sqlite3.Connection:
        return sqlite3.connect(
            uri, uri=True, timeout=WAIT, check_same_thread=False, isolation_level=None
        )

    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)), creator=_open, hide_parameters=True
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def lock_file(file: Path) -> filelock.BaseFileLock:
    """Reserves an SQLite database for one server.

    Raises:
        BcdError: Another one has it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file.with_name(f"{file.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BcdError(
            f"{file}: another server uses it: stop that one, or give folder= or records="
        ) from None
    return lock


def check_structure(connection: Connection, file: Path) -> None:
    """Looks for damage of the file, which writing could make worse.

    It takes 0.15 s for 50,000 records. Kept images, which may be many gigabytes, are left out.

    Raises:
        BcdError: The file is damaged.
    """
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'image_contents'"
    for name in connection.exec_driver_sql(query).scalars().all():
        found = connection.exec_driver_sql(f"PRAGMA quick_check('{name}')").scalars().all()
        if found != ["ok"]:
            raise BcdError(
                f"{file}: damaged: {' '.join(found[0].split())}: move it away and restore a backup "
                "(bcd serve restore)"
            )
