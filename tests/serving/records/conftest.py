"""Databases for tests of records: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bcd.config.serve import ImagesConfig
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.upgrade import prepare
from tests.serving.records.making import images_config
from tests.serving.records.postgres import postgres

Open = Callable[..., Records]
_TEMPLATE = "bcd_template"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """A server with a database that has been migrated."""
    with postgres() as address:
        url = sa.make_url(address)
        _command(url, f"CREATE DATABASE {_TEMPLATE}")
        prepare(url.set(database=_TEMPLATE).render_as_string()).dispose()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.sqlite'}"
    return new_database(request.getfixturevalue("postgres_server"))


def new_database(server: sa.URL, template: str = _TEMPLATE) -> str:
    """A new database on a server, with tables; without them if the template is `template1`."""
    name = f"bcd_{secrets.token_hex(4)}"
    _command(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return server.set(database=name).render_as_string()


def _command(server: sa.URL, command: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(command)
    engine.dispose()


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Opens records, which are closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(images: ImagesConfig | None = None) -> Records:
            return stack.enter_context(open_records(url, images or images_config()))

        yield start


@pytest.fixture
def records(opened: Open) -> Records:
    """New records that keep images."""
    return opened()
