"""Fixtures of the server's tests: an app, and databases: SQLite, PostgreSQL or both."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from bcd.config.serve import ImagesConfig
from bcd.serving.records import store
from bcd.serving.records.chain import GENESIS
from bcd.serving.records.database import connect, sqlite_file, writing
from bcd.serving.records.schema import schema_problems
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.tables import METADATA
from bcd.serving.records.upgrade import prepare
from tests.serving.records.making import images_config
from tests.serving.records.postgres import postgres
from tests.serving.running import Running, running

Open = Callable[..., Records]
_TEMPLATE = "bcd_template"


@pytest.fixture(scope="session", autouse=True)
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Begins new SQLite records with a copy of migrated ones, which takes a tenth of the time.

    `prepare` itself and processes of their own migrate as usual.
    """
    template = tmp_path_factory.mktemp("template") / "records.sqlite"
    prepare(f"sqlite:///{template}").dispose()
    content = template.read_bytes()

    def copied(url: str, check: bool = False) -> sa.Engine:
        file = sqlite_file(url)
        if (
            file is not None
            and file.parent.is_dir()
            and not (file.exists() and file.stat().st_size)
        ):
            file.touch(0o600)
            file.write_bytes(content)
        return prepare(url, check)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "prepare", copied)
        yield


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running app, shared by the tests of a module."""
    with running(tmp_path_factory.mktemp("served")) as app:
        yield app


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """A server with a database that has been migrated."""
    with postgres() as address:
        url = sa.make_url(address)
        _command(url, f"CREATE DATABASE {_TEMPLATE}")
        prepare(url.set(database=_TEMPLATE).render_as_string()).dispose()
        yield url


@pytest.fixture(scope="session")
def used_databases() -> list[str]:
    """Databases that a test has left, with empty tables: making one anew takes much longer."""
    return []


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, used_databases: list[str]) -> Iterator[str]:
    """The URL of a new database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.sqlite'}"
        return
    server = request.getfixturevalue("postgres_server")
    database = used_databases.pop() if used_databases else new_database(server)
    yield database
    if _emptied(database):
        used_databases.append(database)


def _emptied(database: str) -> bool:
    """Empties the tables of a database, unless a test has changed its schema or removed it."""
    engine = connect(database)
    names = ", ".join(METADATA.tables)
    head = sa.insert(METADATA.tables["head"]).values(id=1, number=0, hash=GENESIS)
    try:
        with writing(engine) as connection:
            triggers = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname <> ALL "
                "('{records_no_update,records_no_delete,records_no_truncate}')"
            ).scalar_one()
            if triggers or [*schema_problems(connection)]:
                return False
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(f"TRUNCATE {names}")
            connection.execute(head)
    except sa.exc.SQLAlchemyError:
        return False
    finally:
        engine.dispose()
    return True


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
