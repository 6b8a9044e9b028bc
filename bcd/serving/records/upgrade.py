"""Creates the tables in a database, or migrates them to this version of bcd."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from bcd.errors import BcdError
from bcd.serving.records.database import connect, sqlite_file, unusable, writing
from bcd.serving.records.sqlite import check_structure

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x626364  # key of PostgreSQL's advisory lock


def prepare(url: str, check: bool = False) -> Engine:
    """Connects, and creates or migrates the tables.

    Args:
        url: Of the database.
        check: Look for damage of an SQLite file.

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
    try:
        with writing(engine) as connection:
            migrate(connection)
            if check and file is not None:
                check_structure(connection, file)
    except BaseException as error:
        engine.dispose()
        if isinstance(error, SQLAlchemyError):
            raise unusable(engine, error) from error
        raise
    return engine


def migrate(connection: Connection) -> None:
    """Brings the tables to this version of bcd, in the transaction of the connection.

    Raises:
        BcdError: A newer version of bcd has written them.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every step
    if connection.dialect.name == "postgresql":  # several processes may start at once
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    found = MigrationContext.configure(connection).get_current_revision()
    if found == newest_version():
        return
    if found is not None and not is_known(found):
        raise BcdError(f"records: version {found} is of a newer bcd: upgrade bcd, or give records=")
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")


def newest_version() -> str:
    """The version of the tables that this version of bcd uses."""
    return str(_scripts().get_current_head())


def is_known(version: str) -> bool:
    """Whether it is a version of this or an older bcd."""
    return version in {each.revision for each in _scripts().walk_revisions()}


@cache
def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(_FOLDER)
