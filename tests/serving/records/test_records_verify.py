"""Verification finds what was changed, removed or inserted behind the records' back."""

from __future__ import annotations

import contextlib
import math
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bcd.errors import BcdError, ConfigError
from bcd.serving.accounts.tables import TOKENS
from bcd.serving.records.chain import record_hash
from bcd.serving.records.database import connect, reading
from bcd.serving.records.store import open_records
from bcd.serving.records.tables import METADATA, RECORDS
from bcd.serving.records.verify import verify
from tests.serving.records.making import add_people, filled, images_config, tamper

VERSION = sa.Table(
    "alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
# What changes without a record: these tables, and when a token was last used.
UNRECORDED = ("sessions", "jobs", "intake", "outbox", "outbox_position")
TABLES = [*(each for name, each in METADATA.tables.items() if name not in UNRECORDED), VERSION]
UNCOVERED = TOKENS.c.used


@pytest.fixture
def made(url: str, tmp_path: Path) -> str:
    """The URL of records with rows in every table."""
    with open_records(url, images_config()) as records:
        filled(records)
        add_people(records.engine, tmp_path)
    return url


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value[:-1]}{'x' if not value.endswith('x') else 'y'}"
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    return math.nextafter(value, math.inf) if isinstance(value, float) else value + 1000


def rows_of(url: str, table: sa.Table) -> list[dict[str, Any]]:
    """All rows of a table."""
    engine = connect(url)
    with reading(engine, None) as connection:
        rows = [dict(row) for row in connection.execute(sa.select(table)).mappings()]
    engine.dispose()
    return rows


def problems(url: str) -> tuple[str, ...]:
    """What a verification finds; also that the database is of another version."""
    try:
        return verify(url).problems
    except BcdError as error:
        return (str(error),)


def names(problem: str, table: sa.Table, key: object) -> bool:
    """Whether a problem names a row."""
    where = (
        "record " if table is RECORDS else "version" if table is VERSION else f"table {table.name}"
    )
    return where in problem and re.search(rf"\b{key}\b", problem) is not None


def test_a_changed_value_is_named_in_every_column(made: str) -> None:
    assert verify(made).problems == ()
    draw = random.Random(0)
    undo: list[sa.Update] = []
    for table in TABLES:
        (key,) = table.primary_key.columns
        every = rows_of(made, table)
        for column in (each for each in table.columns if each is not UNCOVERED):
            row = draw.choice([row for row in every if row[column.name] is not None])
            new = {**row, column.name: changed(row[column.name])}
            update = sa.update(table).where(key == row[key.name])
            tamper(made, *undo, update.values({column: new[column.name]}))
            found = problems(made)
            named = [row[key.name], new[key.name], row.get("image_id")]
            assert any(names(each, table, name) for each in found for name in named), column
            update = sa.update(table).where(key == new[key.name])
            undo = [update.values({column: row[column.name]})]
        tamper(made, *undo)
        undo = []
    assert verify(made).problems == ()


def test_a_removed_or_inserted_row_is_named(made: str) -> None:
    undo: list[sa.Delete] = []
    for table in TABLES:
        (key,) = table.primary_key.columns
        rows = rows_of(made, table)
        for row in random.Random(0).sample(rows, min(3, len(rows))):
            tamper(made, *undo, sa.delete(table).where(key == row[key.name]))
            found = verify(made).problems
            assert any(names(each, table, row[key.name]) for each in found)
            new = {**row, key.name: changed(row[key.name])}
            if table.name == "answers":
                new.update(image_id="f" * 16, upload=None)  # which are unique
            if table is TOKENS:
                new["digest"] = b"f" * 32  # which is unique
            tamper(made, sa.insert(table).values(row), sa.insert(table).values(new))
            found = verify(made).problems
            assert any(names(each, table, new[key.name]) for each in found), (table, found)
            undo = [sa.delete(table).where(key == new[key.name])]
        tamper(made, *undo)
        undo = []
    assert verify(made).problems == ()


def test_texts_and_images_that_erasure_left_are_found(url: str) -> None:
    with open_records(url, images_config()) as records:
        case_id = filled(records)
        kept = {name: rows_of(url, METADATA.tables[name]) for name in ("texts", "image_contents")}
        records.erase("admin", case_id, "asked")
    assert verify(url).problems == ()
    for name, rows in kept.items():
        table = METADATA.tables[name]
        back = next(row for row in rows if row["case_id"] == case_id)
        tamper(url, sa.insert(table).values(back))
        (problem,) = verify(url).problems
        (key,) = table.primary_key.columns
        assert names(problem, table, back[key.name])
        tamper(url, sa.delete(table).where(key == back[key.name]))


def test_only_a_noted_head_shows_that_the_end_was_cut_off_or_replaced(url: str) -> None:
    with open_records(url, images_config()) as records:
        for number in range(3):
            records.event("anna", "login", {"number": number})
        noted = records.head()
    *_, before, last = rows_of(url, RECORDS)
    head = METADATA.tables["head"]
    tamper(
        url,
        sa.delete(RECORDS).where(RECORDS.c.number == last["number"]),
        sa.update(head).values(number=before["number"], hash=before["hash"]),
    )
    assert verify(url).problems == ()
    assert "noted head is missing" in "".join(verify(url, noted).problems)

    forged = {**last, "user_name": "eve"}
    forged["hash"] = record_hash(*list(forged.values())[:-1])
    tamper(
        url,
        sa.insert(RECORDS).values(forged),
        sa.update(head).values(number=forged["number"], hash=forged["hash"]),
    )
    assert verify(url).problems == ()
    assert "not the noted head" in "".join(verify(url, noted).problems)
    for wrong in ("3", f"x:{'0' * 64}", "3:abc"):
        with pytest.raises(ConfigError, match="--head"):
            verify(url, wrong)


def test_a_missing_trigger_is_found(made: str) -> None:
    engine = connect(made)
    on = "" if engine.dialect.name == "sqlite" else " ON records"
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE records SET user_name = 'eve'")
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM records")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TRIGGER records_no_update{on}")
    engine.dispose()
    (problem,) = verify(made).problems
    assert "records_no_update" in problem


def values_of(table: sa.Table) -> str:
    """The query of what is verified in a table."""
    columns = ", ".join(each.name for each in table.columns if each is not UNCOVERED)
    return f"SELECT rowid, {columns} FROM {table.name}"


def content_of(file: Path) -> object:
    """Every value of an SQLite file as stored; None if it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.text_factory = bytes
            return [
                connection.execute("SELECT rowid, * FROM sqlite_master").fetchall(),
                *(connection.execute(values_of(table)).fetchall() for table in TABLES),
            ]
    except (sqlite3.Error, UnicodeError):
        return None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_changed_byte_in_the_file_is_found(made: str, tmp_path: Path) -> None:
    file = tmp_path / "records.sqlite"
    data = file.read_bytes()
    assert not file.with_name("records.sqlite-wal").exists()
    before, draw = content_of(file), random.Random(0)
    page = 4096
    full = [at for at in range(0, len(data), page) if any(data[at : at + page])]
    copy = tmp_path / "copy.sqlite"
    changes = 0
    for _ in range(150):
        start = draw.choice(full)
        at = draw.choice([at for at in range(start, start + page) if data[at]])
        copy.write_bytes(data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :])
        if content_of(copy) != before:
            changes += 1
            assert problems(f"sqlite:///{copy}"), f"byte {at} of page {at // page}"
    assert changes > 40  # the others are of SQLite's own structures
