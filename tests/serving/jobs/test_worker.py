"""The part of a server that answers images that wait, and the requests that add them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcd.serving.engine.health import AGAIN_SECONDS
from bcd.serving.errors import BusyError, StorageFullError, TimedOutError, UnavailableError
from bcd.serving.jobs.adding import add, add_all, state
from bcd.serving.jobs.worker import MOST, Worker
from bcd.serving.records.database import database_time, reading
from bcd.serving.records.store import Records, open_records
from tests.serving.jobs.making import FakeEngine, Office, new
from tests.serving.making import smear
from tests.serving.records.making import OTHER_MODEL, content, images_config
from tests.serving.running import Running

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """On SQLite."""
    with open_records(f"sqlite:///{tmp_path / 'r.sqlite'}", images_config(keep=False)) as records:
        yield Office(records, tmp_path)


def test_answers_are_recorded_with_the_user_who_added_the_images(office: Office) -> None:
    services = office.services()
    add_all(services, "anna", office.case, [new(i) for i in range(MOST + 1)])
    assert [office.step(), office.step(), office.step()] == [True, True, False]
    images = office.records.case(office.case).images
    assert [image.name for image in images] == [f"secret-{i}.png" for i in range(MOST + 1)]
    assert office.records.image(office.case, images[0].id) == content(0)  # for the page
    assert {name for name, kind in _records(office.records) if kind == "answer"} == {"anna"}


def _records(records: Records) -> list[tuple[str, str]]:
    with records.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT user_name, kind FROM records").all()
    return [(name, kind) for name, kind in rows]


def test_requests_have_half_of_the_queue_but_keep_nobody_out(office: Office) -> None:
    add_all(office.services(), "anna", office.case, [new(i) for i in range(9)])
    office.cfg.limits.queue = 8
    engine = FakeEngine(waiting=1)
    assert office.step(engine)
    assert len(engine.asked) == 3
    engine.waiting = 8
    assert office.step(engine)
    assert len(engine.asked) == 4


def test_an_image_is_read_again_after_a_pause_if_a_reading_process_has_ended(
    office: Office,
) -> None:
    add_all(office.services(), "anna", office.case, [new(1), new(2)])
    engine = FakeEngine(faults=1)
    worker = Worker(office.services(engine))
    assert asyncio.run(worker.step())  # the other one does not wait for it
    (waits,) = office.rows()
    assert len(office.records.case(office.case).images) == 1
    assert not asyncio.run(worker.step()) and len(engine.asked) == 2
    with reading(office.records.engine, None) as connection:
        pause = waits.lease_until - database_time(connection)
    assert 0 < pause <= AGAIN_SECONDS
    office.expire()
    assert asyncio.run(worker.step())
    assert all(image.answer.predicted for image in office.records.case(office.case).images)


def test_an_image_at_which_reading_processes_always_end_is_given_up(office: Office) -> None:
    add(office.services(), "anna", office.case, new(1))
    hostile = FakeEngine(faults=9)
    while office.step(hostile):
        office.expire()
    assert len(hostile.asked) == office.cfg.jobs.attempts
    (image,) = office.records.case(office.case).images
    assert image.waits and image.answer.error == "crashed"


@pytest.mark.parametrize("error", [BusyError("full"), TimedOutError("slow"), UnavailableError("x")])
def test_what_the_engine_does_not_answer_waits_again(office: Office, error: Any) -> None:
    add(office.services(), "anna", office.case, new(1))
    worker = Worker(office.services(FakeEngine(error=error)))
    assert [asyncio.run(worker.step()) for _ in range(3)] == [False] * 3
    assert office.records.case(office.case).images == ()
    asyncio.run(worker._give_back())
    assert [row.attempts for row in office.rows()] == [1]  # no server has ended: it is no try
    assert office.step()
    assert len(office.records.case(office.case).images) == 1


def test_what_the_server_fails_on_holds_up_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, broken = office.services(), FakeEngine(error=ValueError("a fault"))
    add(services, "anna", office.case, new(1))
    assert office.step(broken)
    (image,) = office.records.case(office.case).images
    assert image.waits and "the server failed" in image.answer.error
    uploads = add_all(services, "anna", office.case, [new(2), new(3)])
    change, faults = office.records.change, [ValueError("a fault")] * 2

    def fault(given: Any) -> Any:
        if faults:
            raise faults.pop()
        return change(given)

    monkeypatch.setattr(office.records, "change", fault)
    assert office.step()  # together, then the first one alone
    assert [state(services, office.case, one) for one in uploads] == ["failed", "answered"]


def test_a_full_disk_loses_no_image(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    add_all(office.services(), "anna", office.case, [new(i) for i in range(3)])
    worker, change = Worker(office.services()), office.records.change
    tried = []

    def full(given: Any) -> Any:
        tried.append(given)
        raise StorageFullError("The disk is full: nothing was recorded.")

    monkeypatch.setattr(office.records, "change", full)
    for _ in range(4):
        with pytest.raises(StorageFullError):
            asyncio.run(worker.step())
    assert len(tried) == 4 and len(office.rows()) == 3
    monkeypatch.setattr(office.records, "change", change)
    assert asyncio.run(worker.step())
    images = office.records.case(office.case).images
    assert len(images) == 3 and all(image.answer.predicted for image in images)


def test_a_server_that_stops_gives_its_images_back(office: Office) -> None:
    add_all(office.services(), "anna", office.case, [new(i) for i in range(2)])
    engine, reported = FakeEngine(hangs=True), list[Any]()

    async def stop() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: reported.append(said))
        task = asyncio.create_task(Worker(office.services(engine)).run())
        while len(engine.asked) < 2:
            await asyncio.sleep(0.01)
        assert [row.attempts for row in office.rows()] == [1, 1]
        task.cancel()
        await asyncio.wait([task])
        gc.collect()

    asyncio.run(stop())
    assert reported == []  # no error that nobody looks at
    assert [(row.lease_owner, row.attempts) for row in office.rows()] == [(None, 0)] * 2


def test_a_lease_is_renewed_while_an_answer_takes_long(office: Office) -> None:
    add(office.services(), "anna", office.case, new(1))
    office.cfg.jobs.lease_seconds = 0.4
    engine = FakeEngine(hangs=True)

    async def look() -> None:
        task = asyncio.create_task(Worker(office.services(engine)).run())
        while not engine.asked:
            await asyncio.sleep(0.01)
        for _ in range(10):
            await asyncio.sleep(0.1)
            assert office.leases().take(1) is None
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(look())


def test_an_image_is_answered_after_the_response(served: Running) -> None:
    case = served.all.post("/v1/cases", json={"label": "later"}).json()["id"]
    sent: dict[str, Any] = {
        "content": smear(1),
        "headers": PNG | {"Prefer": 'wait=5, Respond-Async; x="y"', "Idempotency-Key": "k" * 8},
    }
    given = served.all.post(f"/v1/cases/{case}/images", **sent)
    assert given.status_code == 202
    assert given.headers["location"] == f"/v1/cases/{case}"
    assert given.headers["preference-applied"] == "respond-async"
    (queued,) = given.json()["images"]
    state = _state(served, queued["status"])
    assert state["state"] == "answered" and state["upload"] == queued["upload"]
    found = served.all.get(f"/v1/cases/{case}").json()
    assert [image["id"] for image in found["images"]] == [state["image_id"]]
    assert found["queued"] == 0 and found["images"][0]["answer"]["class"]
    again = served.all.post(f"/v1/cases/{case}/images", **sent)
    assert again.json()["images"] == [queued]
    assert len(served.all.get(f"/v1/cases/{case}").json()["images"]) == 1


def _state(served: Running, path: str) -> Any:
    for _ in range(600):
        state = served.all.get(path).json()
        if state["state"] != "waiting":
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_without_the_header_the_response_has_the_answer(served: Running) -> None:
    case = served.all.post("/v1/cases", json={"label": "now"}).json()["id"]
    headers = PNG | {"Prefer": "return=minimal"}
    given = served.all.post(f"/v1/cases/{case}/images", content=smear(1), headers=headers)
    assert given.status_code == 201 and given.json()["images"][0]["answer"]["class"]


def test_pages_and_reports_say_that_images_wait(served: Running) -> None:
    case = served.services.records.open_case("all", "waits", OTHER_MODEL, 1)
    engine: Any = FakeEngine(OTHER_MODEL)  # of another server
    services = replace(served.services, engine=engine)
    add_all(services, "all", case, [new(i) for i in range(2)])
    html = {"Accept": "text/html"}
    page = served.all.get(f"/cases/{case}", headers=html).text
    assert "2 images still wait for an answer." in page
    assert "+ 2 to answer" in served.all.get("/cases", headers=html).text
    report = served.all.get(f"/cases/{case}/report", headers=html).text
    assert "2 more waiting for an answer" in report
    assert "bcd_jobs_waiting 2.0" in served.client.get("/metrics").text
    version = served.all.get(f"/v1/cases/{case}").json()["version"]
    refused = served.all.post(f"/v1/cases/{case}/sign", json={"version": version})
    assert refused.status_code == 409 and "still wait" in refused.json()["detail"]
