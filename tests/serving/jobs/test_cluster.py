"""Servers on one database that are killed while they answer: each image is answered once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bcd.serving.records.database import connect
from bcd.serving.records.verify import verify
from bench.cluster import refuted
from tests.serving.conftest import new_database
from tests.serving.jobs.cluster import Cluster, cluster, wait_for
from tests.serving.making import encoded

IMAGES, TOGETHER = 180, 20
ANSWERING = 0.02  # seconds for each image
LEASED = "SELECT count(*) FROM jobs WHERE lease_owner IS NOT NULL"
SETTINGS = ("jobs.lease_seconds=1", "jobs.attempts=20", "jobs.poll_seconds=0.1")


class Database:
    """What is in a database.

    Args:
        url: Of the database.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = connect(url)

    def count(self, query: str) -> int:
        """The number that a query gives."""
        with self._engine.connect() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def reached(self, count: int) -> None:
        """Waits until so many images are answered."""
        query = "SELECT count(*) FROM answers"
        wait_for(lambda: True if self.count(query) >= count else None)

    def killed_at_work(self, servers: Cluster, *names: str) -> None:
        """Kills servers while they have images; a kill between two claims is tried again."""
        while True:
            wait_for(lambda: self.count(LEASED) or None)
            servers.kill(*names)
            if self.count(LEASED):
                return
            servers.start(*names)

    def check(self, uploads: list[str]) -> None:
        """Checks that each image was answered once, and that the chain is whole."""
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT upload, predicted FROM answers").all()
        assert sorted(upload for upload, _ in rows) == sorted(uploads)
        assert all(predicted is not None for _, predicted in rows)
        assert self.count("SELECT count(*) FROM jobs") == 0
        found = verify(self.url)
        assert found.problems == () and found.images == len(uploads)
        self._engine.dispose()


def add_images(servers: Cluster, count: int) -> list[str]:
    """Adds drawn images to a new case, by all servers in turn; returns their uploads."""
    clients, uploads = list(servers.clients.values()), []
    case = clients[0].post("/v1/cases", json={"label": "a"}).json()["id"]
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    for start in range(0, count, TOGETHER):
        files = [
            ("images", (f"{number}.png", encoded(pixels[number])))
            for number in range(start, start + TOGETHER)
        ]
        client = clients[start // TOGETHER % len(clients)]
        headers = {"Prefer": "respond-async"}
        given = client.post(f"/v1/cases/{case}/images", files=files, headers=headers)
        assert given.status_code == 202, given.text
        uploads += [image["upload"] for image in given.json()["images"]]
    return uploads


def test_three_servers_on_postgresql_answer_each_image_once(
    postgres_server: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(postgres_server)
    monkeypatch.setenv("BCD_RECORDS", url)
    database, names = Database(url), ("a", "b", "c")
    with cluster(tmp_path, ANSWERING, *SETTINGS) as servers:
        servers.start(*names)
        uploads = add_images(servers, IMAGES)
        for number, name in enumerate(names):
            database.reached(20 * (number + 1))
            servers.kill(name)
            servers.start(name)
        database.reached(90)
        database.killed_at_work(servers, *names)
        assert database.count("SELECT count(*) FROM answers") < IMAGES
        servers.start(*names)
        database.reached(IMAGES)
        database.check(uploads)


def test_a_server_on_sqlite_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    with cluster(tmp_path, ANSWERING, *SETTINGS, "jobs.lease_seconds=3600") as servers:
        servers.start("a")
        uploads = add_images(servers, 3 * TOGETHER)
        database = Database(f"sqlite:///{tmp_path / 'records.sqlite'}")
        database.reached(10)
        database.killed_at_work(servers, "a")
        servers.start("a")  # it need not wait for the lease of an hour
        database.reached(len(uploads))
        database.check(uploads)


def test_the_measurement_fails_unless_each_image_is_answered_once() -> None:
    assert refuted(4, (4, 4, 4), {}, ()) == []
    for found in ((5, 4, 5), (3, 3, 3), (5, 5, 5)):
        assert len(refuted(4, found, {}, ())) == 1
    why = refuted(4, (4, 4, 1), {"the server ended": 3}, ["record 7: was changed"])
    assert "3 times: the server ended" in why[1] and "record 7" in why[2]
