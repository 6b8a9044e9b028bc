"""Verification of a database's structure and version, which changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from bcd.errors import BcdError
from bcd.serving.records.database import connect, reading, writing
from bcd.serving.records.schema import schema_problems
from bcd.serving.records.store import open_records
from bcd.serving.records.upgrade import newest_version, prepare
from bcd.serving.records.verify import verify
from bcd.storage import file_sha256
from tests.serving.records.making import filled, images_config


def folder_of(file: Path) -> dict[str, str]:
    """sha256 of a database's files; not of SQLite's memory that processes share."""
    files = [each for each in file.parent.iterdir() if each.name.startswith(file.name)]
    return {each.name: file_sha256(each) for each in files if not each.name.endswith("-shm")}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_verifying_changes_no_file(url: str, tmp_path: Path) -> None:
    killed = tmp_path / "killed" / "records.sqlite"
    killed.parent.mkdir()
    with open_records(url, images_config()) as records:
        filled(records)
        for name in ("records.sqlite", "records.sqlite-wal"):  # as a kill leaves them
            shutil.copy(tmp_path / name, killed.with_name(name))
        head = records.head()
    before = folder_of(killed)
    assert verify(f"sqlite:///{killed}", head).problems == ()
    assert folder_of(killed) == before
    before = folder_of(tmp_path / "records.sqlite")
    assert verify(url, head).problems == ()
    after = folder_of(tmp_path / "records.sqlite")
    assert {name: after[name] for name in before} == before
    engine = connect(url, read_only=True)
    with pytest.raises(sa.exc.OperationalError, match="readonly"), engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE records")
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_folder_that_cannot_be_written_is_verified(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_records(url, images_config()) as records:
        filled(records)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    names = sorted(tmp_path.iterdir())
    assert verify(url).problems == ()
    assert sorted(tmp_path.iterdir()) == names


def test_what_cannot_be_opened_is_an_error_and_not_damage(url: str, tmp_path: Path) -> None:
    if url.startswith("sqlite"):
        for name, content in (("empty", b""), ("text", b"something else" * 1000)):
            (tmp_path / name).write_bytes(content)
        wrong = {"empty": "no records of bcd", "text": "not a database", "none": "unable to open"}
        for name, reason in wrong.items():
            with pytest.raises(BcdError, match=reason):
                verify(f"sqlite:///{tmp_path / name}")
        assert not (tmp_path / "none").exists()
    else:
        prepare(url).dispose()
        with pytest.raises(BcdError, match="does not exist"):
            verify(sa.make_url(url).set(database="none").render_as_string(False))


def test_records_of_another_version_are_an_error_and_not_damage(url: str) -> None:
    engine = connect(url)
    for version, reason in (("0001", "of an older bcd: start the server"), ("9999", "newer bcd")):
        prepare(url).dispose()
        with writing(engine) as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
        with pytest.raises(BcdError, match=reason):
            verify(url)
        with writing(engine) as connection:
            connection.exec_driver_sql(
                f"UPDATE alembic_version SET version_num = '{newest_version()}'"
            )
    engine.dispose()
    assert verify(url).problems == ()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "CREATE OR REPLACE FUNCTION bcd_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF current_user = '' THEN RAISE EXCEPTION 'records are append-only'; END IF; "
            "RETURN NULL; END $$",
            {"records_no_update", "records_no_delete", "records_no_truncate"},
        ),
        (
            "CREATE OR REPLACE TRIGGER records_no_delete BEFORE DELETE ON records "
            "FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION bcd_append_only()",
            {"records_no_delete"},
        ),
        ("ALTER TABLE records DISABLE TRIGGER records_no_update", {"records_no_update"}),
        (
            "CREATE TRIGGER other BEFORE INSERT ON records "
            "FOR EACH ROW EXECUTE FUNCTION bcd_append_only()",
            {"other"},
        ),
    ],
)
def test_a_changed_trigger_of_postgresql_is_found(url: str, change: str, named: set[str]) -> None:
    engine = prepare(url)
    assert verify(url).problems == ()
    with engine.begin() as connection:
        connection.exec_driver_sql(change)
        found = {each.split()[1].rstrip(":") for each in schema_problems(connection)}
        connection.rollback()
    engine.dispose()
    assert found == named


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_damaged_file_is_not_served(url: str, tmp_path: Path) -> None:
    with open_records(url, images_config()) as records:
        filled(records)
        with reading(records.engine, None) as connection:
            query = "SELECT rootpage FROM sqlite_master WHERE name IN ('records', 'records_case')"
            roots = connection.exec_driver_sql(query).scalars().all()
    file = tmp_path / "records.sqlite"
    whole = file.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    overwritten = [
        whole[: (root - 1) * page] + b"\x07" * page + whole[root * page :] for root in roots
    ]
    for damaged in (*overwritten, whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(BcdError, match=r"damaged|malformed"):
            open_records(url, images_config())
    file.write_bytes(whole)
    open_records(url, images_config()).close()
