"""What was acknowledged is there after kills, on a full disk and without the database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bcd.serving.errors import RequestError, StorageFullError, UnavailableError
from bcd.serving.records.cases import NewImage
from bcd.serving.records.contents import Contents
from bcd.serving.records.database import sqlite_file
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.upgrade import prepare
from bcd.serving.records.verify import verify
from tests.helpers.harness import ROOT
from tests.serving.conftest import Open, new_database
from tests.serving.making import IDENTITY
from tests.serving.records.load import missing
from tests.serving.records.making import answer, filled, images, images_config

KILLS = 10


def test_ten_kills_under_load_lose_nothing_acknowledged(url: str) -> None:
    load = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.records.load", url], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert load.stdin is not None
    assert load.stdout is not None
    heads: list[str] = []
    total = 0
    for moment in range(KILLS):
        print("start", file=load.stdin, flush=True)
        lines: list[dict[str, Any]] = []
        while not (lines and lines[-1].get("dead")):
            lines.append(json.loads(load.stdout.readline()))
            if len(lines) == 5 + 7 * moment:
                print("kill", file=load.stdin, flush=True)
        assert not any("error" in line for line in lines), lines[-5:]
        engine = prepare(url)
        with Records(engine, sqlite_file(url), Contents(engine, images_config())) as records:
            assert missing(records, lines) == []
        heads += [line["head"] for line in lines if "head" in line]
        assert verify(url, heads[-1] if heads else None).problems == ()
        total += len(lines) - 1
    assert verify(url, heads[0]).problems == ()
    assert total >= sum(5 + 7 * moment for moment in range(KILLS))
    load.stdin.close()
    assert load.wait(timeout=30) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command).returncode:
        pytest.skip("no small disk can be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_what_does_not_fit_and_keeps_the_rest(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'records.sqlite'}"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    with open_records(url, images_config()) as records:
        case_id = records.open_case("anna", "label", IDENTITY, 1)
        stored: list[str] = []
        with pytest.raises(StorageFullError):
            for _ in range(2000):
                stored += records.add_images("anna", case_id, IDENTITY, images(20))
        assert [image.id for image in records.case(case_id).images] == stored
        assert verify(url, records.head()).problems == ()
        for _ in range(2):
            with pytest.raises(StorageFullError):
                records.add_images("anna", case_id, IDENTITY, images(40))
        ballast.unlink()
        stored += records.add_images("anna", case_id, IDENTITY, images(3))
        assert [image.id for image in records.case(case_id).images] == stored
    assert verify(url).problems == ()


def test_commands_say_in_one_line_that_the_disk_is_full(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'records.sqlite'}"
    with open_records(url, images_config()) as records:
        case_id = records.open_case("anna", "label", IDENTITY, 1)
        with pytest.raises(StorageFullError):
            for _ in range(2000):
                records.add_images("anna", case_id, IDENTITY, images(20))
        with pytest.raises(StorageFullError):
            for _ in range(2000):
                records.event("anna", "login", {})
        command = ["erase", case_id, "--reason", "asked", "--records", url]
        ended = subprocess.run(
            [sys.executable, "-m", "bcd", "serve", *command], cwd=ROOT, text=True,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: The disk is full: nothing was recorded.")
        assert records.case(case_id).label == "label"
    assert verify(url).problems == ()


def fill_up(records: Records) -> None:
    """Makes the database refuse images larger than 10 kB, as a full disk does."""
    sqlite = records.engine.dialect.name == "sqlite"
    with records.engine.begin() as connection:
        if sqlite:
            used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            limit = f"PRAGMA max_page_count = {used + 40}"
            sa.event.listen(records.engine, "connect", lambda raw, _: raw.execute(limit))
        else:
            connection.exec_driver_sql(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF length(NEW.stored) > 10000 THEN "
                "RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; "
                "END IF; RETURN NEW; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER full_disk BEFORE INSERT ON image_contents "
                "FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
    records.engine.dispose()


def test_a_change_that_does_not_fit_takes_no_other_with_it(records: Records, url: str) -> None:
    case_id = records.open_case("anna", "label", IDENTITY, 1)
    fill_up(records)
    large = (NewImage("large.png", bytes(1_000_000)), answer(0))
    failed: list[RequestError] = []

    def add(number: int) -> None:
        given = [large] if number % 2 else images(1)
        try:
            records.add_images("anna", case_id, IDENTITY, given)
        except RequestError as error:
            failed.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in failed] == [StorageFullError] * 4
    assert [image.name for image in records.case(case_id).images] == ["0.png"] * 4
    found = [problem for problem in verify(url).problems if "full_disk" not in problem]
    assert found == []


def test_a_database_that_is_gone_is_unavailable(
    opened: Open, url: str, request: pytest.FixtureRequest
) -> None:
    records = opened()
    case_id = filled(records)
    if (file := sqlite_file(url)) is not None:
        file.rename(file.with_name("elsewhere"))
    else:
        server: sa.URL = request.getfixturevalue("postgres_server")
        engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
        name = sa.make_url(url).database
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()
        with pytest.raises(UnavailableError):
            records.case(case_id)
    with pytest.raises(UnavailableError):
        records.event("anna", "login", {})


def test_errors_of_the_database_do_not_tell_what_people_typed(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    label = "".join(("Muster", "frau"))  # not as it is in the source, which tracebacks show
    case_id = records.open_case("anna", label, IDENTITY, 1)
    with records.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE texts RENAME TO other")
    with pytest.raises(UnavailableError) as caught:
        records.open_case("anna", label, IDENTITY, 1)
    with pytest.raises(UnavailableError):
        records.case(case_id)
    told = caplog.text + "".join(traceback.format_exception(caught.value))
    assert "texts" in told
    assert label not in told


def test_lost_connections_are_made_anew(postgres_server: sa.URL) -> None:
    url = new_database(postgres_server)
    with open_records(url, images_config()) as records:
        case_id = filled(records)
        engine = sa.create_engine(postgres_server)
        with engine.connect() as connection:
            ended = connection.execute(
                sa.text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE datname = :name"
                ),
                {"name": sa.make_url(url).database},
            ).scalar_one()
        engine.dispose()
        assert ended
        assert records.case(case_id).id == case_id
        records.event("anna", "login", {})
        assert verify(url, records.head()).problems == ()


def test_after_closing_nothing_is_accepted(opened: Open, url: str) -> None:
    records = opened()
    filled(records)
    head = records.head()
    records.close()
    with pytest.raises(UnavailableError):
        records.event("anna", "login", {})
    assert verify(url).head == head
