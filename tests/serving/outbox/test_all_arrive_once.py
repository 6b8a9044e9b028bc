"""Many changes, a server that fails half of the time, and senders that are killed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

from bcd.interop.fhir.bundle import Identifiers, version_of
from bcd.interop.fhir.case import REGISTERED
from bcd.serving.outbox.build import status_of
from bcd.serving.outbox.entries import Counts
from bcd.serving.outbox.sender import Sender
from bcd.serving.outbox.store import DELIVERED
from bcd.serving.records.cases import ERASED, OPEN, UNIDENTIFIED
from bcd.serving.records.tables import RECORDS
from bcd.serving.records.verify import verify
from tests.serving.making import IDENTITY
from tests.serving.outbox.fhir_server import AFTER, BEFORE, FhirServer, fhir_server
from tests.serving.outbox.making import BASE, Posting, posting
from tests.serving.records.making import images

CASES, CHANGES = 6, 40
_LEASE = 1e4  # seconds, more than any lease


def test_all_arrive_once(url: str, tmp_path: Path) -> None:
    with (
        fhir_server() as fhir,
        posting(tmp_path, fhir.url, "fhir.timeout_seconds=0.1", url=url) as post,
    ):
        cases = [post.records.open_case("anna", "label", IDENTITY, 1) for _ in range(CASES)]
        asyncio.run(_post_all(post, fhir, cases))
        _check(post, fhir, cases)
    assert verify(url).problems == ()


async def _post_all(post: Posting, fhir: FhirServer, cases: Sequence[str]) -> None:
    draw, fhir.slow = random.Random(5), 0.15
    fhir.fault = lambda _: draw.choice((*BEFORE, *AFTER)) if draw.random() < 0.4 else ""
    post.sender()
    senders: list[Sender] = []
    for _ in range(CHANGES):
        _change(post, draw.choice(cases), draw)
        senders = senders or [post.sender(draw.random()) for _ in range(2)]
        if await _post(senders, draw):
            senders = []
            post.clock.seconds += _LEASE if draw.random() < 0.5 else 0
        post.clock.seconds += draw.choice((1, 100))
    fhir.fault, post.services.cfg.fhir.timeout_seconds = lambda _: "", 60.0
    await asyncio.sleep(2 * fhir.slow)  # for requests whose clients have gone
    last = post.sender()
    for _ in range(3):  # changes that joined what was being posted are due a little later
        post.clock.seconds += _LEASE
        await last.post_due()
    for sender in (last, *senders):
        await sender.close()
    assert last.outbox.counts() == Counts(0, 0, 0, {})


def _change(post: Posting, case_id: str, draw: random.Random) -> None:
    """Adds an image, reviews one, signs, or erases, whichever the case allows."""
    case = post.records.case(case_id)
    waits = [image for image in case.images if image.waits]
    if case.status == ERASED:
        return
    if case.status == OPEN and (not case.images or draw.random() < 0.4):
        post.records.add_images("anna", case_id, IDENTITY, images(1, draw.choice((0, 1))))
    elif waits:
        post.records.review("berta", case_id, waits[0].id, UNIDENTIFIED, "a remark")
    elif case.status == OPEN:
        post.records.sign("berta", case_id, case.version)
    elif draw.random() < 0.4:
        post.records.erase("admin", case_id, "asked by the patient")


async def _post(senders: Sequence[Sender], draw: random.Random) -> bool:
    """Two senders post at the same time; whether they were killed meanwhile."""
    tasks = [asyncio.ensure_future(each.post_due()) for each in senders]
    killed = draw.random() < 0.4
    _, left = await asyncio.wait(tasks, timeout=draw.random() * 0.1 if killed else 60)
    for task in left:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if killed:
        for sender in senders:
            await sender.close()
    return killed


def _check(post: Posting, fhir: FhirServer, cases: Sequence[str]) -> None:
    names, reports = Identifiers(BASE), fhir.identified("DiagnosticReport")
    observations = fhir.identified("Observation")
    ids = set()
    for case_id in cases:
        case = post.records.case(case_id)
        if case_id not in reports:  # nothing to post, or erased before it left
            assert not case.images or case.status == ERASED
            continue
        [report] = reports[case_id]
        assert version_of(report, names).startswith(f"{case.version}:")
        assert report["status"] == status_of(case)
        past = fhir.history["DiagnosticReport", report["id"]]
        empty = {each["status"] for each in past} == {REGISTERED, "entered-in-error"}
        for image in () if empty else case.images:  # nothing is made to say that it is erased
            ids.add(image.id)
            [one] = observations[image.id]
            assert (one["status"] == "entered-in-error") == (case.status == ERASED)
            if report["status"] != "entered-in-error":
                assert f"Observation/{one['id']}" in str(report["result"])
        history = [int(version_of(each, names).partition(":")[0] or 0) for each in past]
        assert history == sorted(set(history)), "an older version came after a later one"
    assert set(observations) == ids and len(reports) >= CASES // 2
    assert len(fhir.now("Device")) == 1
    with post.records.engine.connect() as connection:
        facts = connection.execute(RECORDS.select().where(RECORDS.c.kind == DELIVERED)).all()
    assert {json.loads(row.payload)["case"] for row in facts} == set(reports)
