"""Images that wait: which server answers them, and that none is lost or answered twice."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from bcd.serving.errors import ConflictError, NotFoundError, TooLargeError
from bcd.serving.jobs.adding import Status, add, add_all, state, status
from bcd.serving.jobs.leases import CHANGED
from bcd.serving.records.cases import NewImage, Source
from bcd.serving.records.contents import make_key
from bcd.serving.records.database import writing
from bcd.serving.records.store import Records
from bcd.serving.records.tables import ANSWERS, CASES, JOBS
from bcd.serving.records.verify import verify
from tests.serving.conftest import Open
from tests.serving.jobs.making import FakeEngine, Office, answered, names, new
from tests.serving.making import IDENTITY
from tests.serving.records.making import OTHER_MODEL, content, images_config, tamper


@pytest.fixture
def office(records: Records, tmp_path: Path) -> Office:
    """On either database, with the configuration in a folder."""
    return Office(records, tmp_path)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """The URL of a new SQLite database."""
    return f"sqlite:///{tmp_path / 'records.sqlite'}"


def test_servers_take_different_images_in_their_order(office: Office) -> None:
    add_all(office.services(), "anna", office.case, [new(i) for i in range(6)])
    first, second = office.leases().take(4), office.leases().take(4)
    assert first is not None and second is not None
    assert names(first.jobs) == [f"secret-{i}.png" for i in range(4)]
    assert names(second.jobs) == ["secret-4.png", "secret-5.png"]
    assert [job.image.data for job in second.jobs] == [content(4), content(5)]
    assert office.leases().take(4) is None


def test_a_lost_lease_records_nothing(office: Office) -> None:
    upload = add(office.services(), "anna", office.case, new(1))
    slow, fast = office.leases(), office.leases()
    lost = slow.take(4)
    office.expire()
    held = fast.take(4)
    assert lost is not None and held is not None
    answers = [(job, answered(job.image)) for job in held.jobs]
    assert slow.record(lost.owner, answers) == 0
    slow.give_back(lost.owner)
    assert state(office.services(), office.case, upload) == "waiting"
    assert fast.record(held.owner, answers) == 1
    assert slow.record(lost.owner, answers) == fast.record(held.owner, answers) == 0
    image = office.records.case(office.case).images[0]
    assert status(office.services(), office.case, upload) == Status("answered", image.id)
    assert len(office.records.case(office.case).images) == 1


def test_an_image_that_was_sent_at_once_meanwhile_is_not_added_again(office: Office) -> None:
    image = new(1, "a" * 32)
    add(office.services(), "anna", office.case, image)
    office.records.add_images("anna", office.case, IDENTITY, [(image, answered(image))])
    assert office.step()
    assert len(office.records.case(office.case).images) == 1
    assert office.rows() == []


def test_an_image_that_ends_its_servers_takes_no_other_with_it(office: Office) -> None:
    add_all(office.services(), "anna", office.case, [new(i) for i in range(3)])
    together = office.leases().take(4)
    assert together is not None and len(together.jobs) == 3
    for _ in range(2):  # attempts, of which that with others is none
        office.expire()
        alone = office.leases().take(4)
        assert alone is not None and names(alone.jobs) == ["secret-0.png"]
        assert not alone.jobs[0].refused
    office.expire()
    assert [office.step() for _ in range(4)] == [True, True, True, False]
    images = {image.name: image for image in office.records.case(office.case).images}
    ended, *others = (images[f"secret-{i}.png"] for i in range(3))
    assert ended.answer.predicted is None and ended.waits
    assert "it was tried alone 2 times" in ended.answer.error
    assert office.records.image(office.case, ended.id) == content(0)
    assert all(image.answer.predicted for image in others)


def test_images_that_were_tried_alternate_with_new_ones(office: Office) -> None:
    add_all(office.services(), "anna", office.case, [new(0), new(1)])
    assert office.leases().take(4) is not None
    office.expire()
    add_all(office.services(), "anna", office.case, [new(2), new(3), new(4)])
    server, found = office.leases(), []
    while lease := server.take(2):
        found.append([int(job.image.name[7]) for job in lease.jobs])
    assert found == [[2, 3], [0], [4], [1]]  # one that has just started begins with new ones


def test_images_that_were_given_back_count_as_not_tried(office: Office) -> None:
    add_all(office.services(), "anna", office.case, [new(0), new(1)])
    for _ in range(3):
        lease = office.leases().take(4)
        assert lease is not None and len(lease.jobs) == 2
        office.leases().give_back(lease.owner)
    assert [row.attempts for row in office.rows()] == [0, 0]


def test_an_erased_case_has_no_images_that_wait(office: Office) -> None:
    services = office.services()
    upload = add(services, "anna", office.case, new(7))
    lease = office.leases().take(1)
    assert lease is not None
    office.records.erase("admin", office.case, "asked by the patient")
    assert "secret" not in repr(office.rows()) and "image 7" not in repr(office.rows())
    answers = [(lease.jobs[0], answered(lease.jobs[0].image))]
    assert office.leases().record(lease.owner, answers) == 0
    assert status(services, office.case, upload) == Status("failed", failure="The case was erased.")
    with pytest.raises(ConflictError, match="erased"):
        add(services, "anna", office.case, new(7))
    url = office.records.engine.url.render_as_string(False)
    assert verify(url).problems == ()
    tamper(url, "UPDATE jobs SET failure = NULL")
    (problem,) = verify(url).problems
    assert problem.endswith("waits for an answer, but its case is closed")


def test_a_case_is_signed_only_without_images_that_wait(office: Office) -> None:
    records, services = office.records, office.services()
    add_all(services, "anna", office.case, [new(i) for i in range(3)])
    case = records.case(office.case)
    assert (case.queued, records.cases(1)[0].queued) == (3, 3)
    with pytest.raises(ConflictError, match="3 images still wait for an answer"):
        records.sign("berta", office.case, case.version)
    assert office.step()
    records.sign("berta", office.case, records.case(office.case).version)
    assert records.case(office.case).queued == 0


def test_an_image_that_its_case_does_not_take_fails_alone(office: Office) -> None:
    services, records = office.services(), office.records
    other = records.open_case("anna", "other", IDENTITY, 1)
    upload = add(services, "anna", office.case, new(1))
    good = add(services, "anna", other, new(2))
    with writing(records.engine) as connection:  # no rule lets it be signed now
        closed = update(CASES).where(CASES.c.id == office.case).values(status="signed")
        connection.execute(closed)
    assert office.step()
    found = status(services, office.case, upload)
    assert found.state == "failed" and "signed" in found.failure
    assert state(services, other, good) == "answered"
    assert "secret" not in repr(office.rows())


def test_a_lease_that_is_renewed_is_not_taken(opened: Open, tmp_path: Path) -> None:
    office = Office(opened(), tmp_path)
    add(office.services(), "anna", office.case, new(1))
    leases = office.leases(lease_seconds=0.6)
    lease = leases.take(1)
    assert lease is not None
    time.sleep(0.4)
    leases.renew(lease.owner)
    time.sleep(0.4)
    assert office.leases().take(1) is None  # 0.8 s after it was taken
    time.sleep(0.4)
    assert office.leases().take(1) is not None


def test_images_wait_for_a_server_with_the_model_of_their_case(office: Office) -> None:
    add(office.services(), "anna", office.case, new(1))
    assert office.leases(OTHER_MODEL).take(1) is None
    assert office.leases(sites=["another"]).take(1) is None
    lease = office.leases(OTHER_MODEL, hours=0.0).take(1)
    assert lease is not None and "no server answered with its model" in lease.jobs[0].refused
    office.leases().give_back(lease.owner)
    later = office.leases(hours=0.0).take(1)
    assert later is not None and not later.jobs[0].refused
    office.leases().give_back(later.owner)
    office.cfg.jobs = replace(office.cfg.jobs, hours=0.0)
    assert office.step(FakeEngine(OTHER_MODEL))
    (image,) = office.records.case(office.case).images
    assert image.waits and image.answer.model_sha256 == IDENTITY.sha256
    case = office.records.open_case("anna", "other", OTHER_MODEL, 1)
    with pytest.raises(ConflictError, match="another model"):
        add(office.services(), "anna", case, new(1))


def test_a_server_that_is_busy_is_not_taken_for_one_that_has_gone(office: Office) -> None:
    add(office.services(), "anna", office.case, new(1))
    assert office.step()  # its server answers
    add(office.services(), "anna", office.case, new(2))
    hours = timedelta(hours=2).total_seconds()
    with writing(office.records.engine) as connection:
        connection.execute(update(JOBS).values(time=JOBS.c.time - hours))
    other = office.leases(OTHER_MODEL, hours=1.0)
    assert other.take(1) is None
    add(office.services(), "anna", office.case, new(3))
    with writing(office.records.engine) as connection:
        connection.execute(update(ANSWERS).values(time=ANSWERS.c.time - hours))
    answering = office.leases().take(1)
    assert answering is not None and other.take(1) is None
    office.leases().give_back(answering.owner)
    lease = other.take(2)
    assert lease is not None and names(lease.jobs) == ["secret-2.png"] and lease.jobs[0].refused


def test_an_upload_is_added_once(office: Office) -> None:
    services, upload = office.services(), "b" * 32
    image = new(1, upload)
    assert add_all(services, "anna", office.case, [image, image]) == [upload, upload]
    assert add(services, "anna", office.case, image) == upload
    assert len(office.rows()) == 1
    with pytest.raises(ConflictError, match="another image"):
        add(services, "anna", office.case, new(2, upload))
    assert office.step()
    assert add(services, "anna", office.case, image) == upload
    assert office.rows() == []
    with pytest.raises(NotFoundError):
        status(services, office.case, "c" * 32)
    with pytest.raises(NotFoundError):
        status(services, office.case, "\0")


def test_what_is_known_of_an_image_comes_with_it(office: Office) -> None:
    source = Source("d" * 64, 2, "e" * 64)
    good = NewImage("a.dcm#2", content(1), "a" * 32, source, {"PatientID": "P\0 1"})
    bad = NewImage("b.dcm", b"", "b" * 32, replace(source, frame=1), error="is no image")
    add_all(office.services(), "anna", office.case, [good, bad])
    assert office.step()
    first, second = office.records.case(office.case).images
    assert (first.name, first.source, first.upload) == (good.name, source, good.upload)
    assert first.attributes == {"PatientID": "P 1"}
    assert (second.answer.error, second.answer.sha256) == (bad.error, source.sha256)
    assert state(office.services(), office.case, bad.upload) == "answered"
    assert add(office.services(), "anna", office.case, bad) == bad.upload
    assert office.rows() == []


def test_a_case_has_no_more_images_than_it_may(office: Office) -> None:
    office.cfg.limits.case_images = 2
    add(office.services(), "anna", office.case, new(1))
    with pytest.raises(TooLargeError, match="at most 2 images"):
        add_all(office.services(), "anna", office.case, [new(2), new(3)])
    assert len(office.rows()) == 1


def test_images_that_wait_are_encrypted(opened: Open, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    office = Office(opened(images_config(key_file=str(tmp_path / "key"))), tmp_path)
    kept = [replace(new(number), kept={"PatientID": "qzxv"}) for number in (1, 2, 3)]
    add_all(office.services(), "anna", office.case, kept)
    texts = (content(1), kept[0].name.encode(), b"PatientID", b"qzxv")
    assert not [row for row in office.rows() for text in texts if text in row.image + row.stored]
    first, second, third = office.rows()
    with writing(office.records.engine) as connection:
        for row, column in ((first, "stored"), (second, "image")):
            change = {column: getattr(third, column)}
            connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(change))
    assert office.step()
    *changed, good = office.records.case(office.case).images
    assert [CHANGED in each.answer.error and each.waits for each in changed] == [True, True]
    assert good.answer.predicted and office.records.image(office.case, good.id) == content(3)
    assert good.attributes == {"PatientID": "qzxv"} and good.name == kept[2].name


def test_a_restart_on_sqlite_does_not_wait_for_leases(sqlite: str, tmp_path: Path) -> None:
    from bcd.serving.records.store import open_records

    with open_records(sqlite, images_config()) as records:
        office = Office(records, tmp_path)
        add(office.services(), "anna", office.case, new(1))
        assert office.leases().take(1) is not None
        assert office.leases().take(1) is None
    with open_records(sqlite, images_config()) as records:
        leases = Office(records, tmp_path).leases()
        leases.start()
        lease = leases.take(1)
        assert lease is not None and names(lease.jobs) == ["secret-1.png"]
