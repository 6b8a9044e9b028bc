"""The database is created, migrated and shared as it should be."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from bcd.errors import BcdError, ConfigError
from bcd.serving.records.database import database_url
from bcd.serving.records.store import open_records
from bcd.serving.records.tables import METADATA
from bcd.serving.records.upgrade import prepare
from tests.serving.conftest import new_database
from tests.serving.records.making import images_config, tamper


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'records.sqlite'}"
    return new_database(request.getfixturevalue("postgres_server"), "template1")


def test_migrations_make_the_declared_tables(empty: str) -> None:
    engine = prepare(empty)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": lambda thing, name, kind, *_: (
                    kind != "table" or name in METADATA.tables
                )
            },
        )
        assert compare_metadata(context, METADATA) == []
        assert sa.inspect(connection).has_table("records")
    engine.dispose()
    prepare(empty).dispose()  # a second time changes nothing


def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    prepare(url).dispose()
    tamper(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BcdError, match="9999 is of a newer bcd"):
        open_records(url, images_config())


def test_one_server_uses_an_sqlite_file_and_several_use_postgresql(url: str) -> None:
    with open_records(url, images_config()) as records:
        if url.startswith("sqlite"):
            with pytest.raises(BcdError, match="another server"):
                open_records(url, images_config())
        else:
            with open_records(url, images_config()) as other:
                other.event("", "server started", {})
                assert records.head() == other.head()
    with open_records(url, images_config()) as records:
        assert records.head()


@pytest.mark.parametrize("wrong", ["mysql://host/db", "sqlite://", "records", "sqlite:///:memory:"])
def test_other_databases_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="records"):
        open_records(wrong, images_config())


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "records.sqlite"
    file.write_bytes(b"something else" * 1000)
    with pytest.raises(BcdError, match="not a database"):
        open_records(f"sqlite:///{file}", images_config())
    assert file.read_bytes() == b"something else" * 1000


def test_a_server_that_cannot_be_reached_is_an_error_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(BcdError) as caught:
        open_records(f"postgresql://anna:hunter2@/bcd?host={tmp_path}", images_config())
    assert "hunter2" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_others_cannot_read_the_file(tmp_path: Path) -> None:
    with open_records(database_url(None, str(tmp_path)), images_config()) as records:
        records.event("", "server started", {})
        made = list(tmp_path.glob("records.sqlite*"))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in made}
    assert "records.sqlite-wal" in modes
    assert {mode for name, mode in modes.items() if not name.endswith(".lock")} == {0o600}
