"""Whether a database has the structure that the migrations make.

In SQLite: every table, index and trigger. In PostgreSQL: the triggers of the records and their
function; what differs in its tables shows when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import sqlalchemy as sa
from sqlalchemy import Connection, text

from bcd.errors import BcdError
from bcd.serving.records.upgrade import is_known, migrate, newest_version

# As PostgreSQL shows what the migrations make.
_FUNCTION = " BEGIN RAISE EXCEPTION 'records are append-only'; END "
_TRIGGERS = {
    f"records_no_{change.lower()}": f"CREATE TRIGGER records_no_{change.lower()} BEFORE {change} "
    "ON records FOR EACH STATEMENT EXECUTE FUNCTION bcd_append_only()"
    for change in ("UPDATE", "DELETE", "TRUNCATE")
}


def is_older(connection: Connection) -> bool:
    """Whether an older version of bcd has made the tables, which is no damage.

    Raises:
        BcdError: A newer version has, or there are no records.
    """
    place = f"records: {connection.engine.url.render_as_string(hide_password=True)}"
    tables = set(sa.inspect(connection).get_table_names())
    if not tables & {"records", "alembic_version"}:
        raise BcdError(f"{place}: there are no records of bcd in it")
    if "alembic_version" not in tables:
        return False
    versions = list(connection.scalars(text("SELECT version_num FROM alembic_version")))
    if len(versions) != 1 or versions == [newest_version()]:
        return False
    if is_known(versions[0]):
        return True
    raise BcdError(f"{place}: version {versions[0]} is of a newer bcd: upgrade bcd")


def schema_problems(connection: Connection) -> Iterator[str]:
    """Yields what differs; without the triggers, records could be changed in place."""
    versions = list(connection.scalars(text("SELECT version_num FROM alembic_version")))
    if versions != [newest_version()]:
        yield f"table alembic_version: {versions} instead of version {newest_version()}"
    if connection.dialect.name == "sqlite":
        yield from _sqlite_problems(connection)
    else:
        yield from _postgresql_problems(connection)


def _sqlite_problems(connection: Connection) -> Iterator[str]:
    for line in connection.scalars(text("PRAGMA integrity_check(20)")):
        if line != "ok":
            yield f"SQLite's integrity check: {line}"
    found, expected = _sqlite_schema(connection), _expected_schema()
    for name in sorted(expected.keys() - found.keys()):
        yield f"{name}: missing"
    for name, sql in found.items():
        if name not in expected or sql != expected[name]:
            yield f"{name}: not as bcd creates it"


def _sqlite_schema(connection: Connection) -> dict[str, tuple[str, str | None]]:
    """The table and the SQL of each object; ANALYZE may add tables of its own."""
    query = text("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return {
        f"{kind} {name}": (table, sql)
        for kind, name, table, sql in connection.execute(query)
        if not name.startswith("sqlite_stat")
    }


@cache
def _expected_schema() -> dict[str, tuple[str, str | None]]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        migrate(connection)
        return _sqlite_schema(connection)


def _postgresql_problems(connection: Connection) -> Iterator[str]:
    query = text(
        "SELECT tgname, tgenabled, pg_get_triggerdef(pg_trigger.oid, true), prosrc, lanname "
        "FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid "
        "JOIN pg_language ON pg_language.oid = prolang "
        "WHERE tgrelid = 'records'::regclass AND NOT tgisinternal"
    )
    found = {name: rest for name, *rest in connection.execute(query)}
    for name, definition in _TRIGGERS.items():
        wanted = [definition, _FUNCTION, "plpgsql"]
        if name not in found or found[name][0] not in ("O", "A") or found[name][1:] != wanted:
            yield f"trigger {name}: missing, disabled or changed"
    for name in sorted(found.keys() - _TRIGGERS.keys()):
        yield f"trigger {name}: not of bcd"
