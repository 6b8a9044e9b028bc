"""What becomes of one case at a FHIR server, and of each kind of failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcd.serving.outbox.sender import Sender
from bcd.serving.records.cases import UNIDENTIFIED
from tests.serving.making import IDENTITY
from tests.serving.outbox.fhir_server import FhirServer, fhir_server
from tests.serving.outbox.making import Posting, posting
from tests.serving.records.making import images


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    """A FHIR server."""
    with fhir_server() as server:
        yield server


@pytest.fixture
def post(fhir: FhirServer, tmp_path: Path) -> Iterator[Posting]:
    """Services that post to it."""
    with posting(tmp_path, fhir.url, "fhir.timeout_seconds=0.15") as made:
        yield made


def new_case(post: Posting, count: int = 2, referred: int = 0) -> str:
    case = post.records.open_case("anna", "a label", IDENTITY, 1)
    post.records.add_images("anna", case, IDENTITY, images(count, referred))
    return case


def send(post: Posting, sender: Sender | None = None, later: float = 10.0) -> int:
    """Posts what is due after some seconds, by a new sender if none is given."""

    async def once(made: Sender) -> int:
        try:
            made.outbox.collect()
            post.clock.seconds += later
            return await made.post_due()
        finally:
            await made.close()

    return asyncio.run(once(sender or post.sender()))


def test_a_case_is_posted_as_it_changes_and_never_twice(post: Posting, fhir: FhirServer) -> None:
    post.sender()
    case = new_case(post, 2, referred=1)
    assert send(post) == 1
    [report] = fhir.now("DiagnosticReport")
    assert report["status"] == "preliminary" and report["id"].isdigit()
    assert {each["status"] for each in fhir.now("Observation")} == {"preliminary"}
    seen = len(fhir.requests)
    assert send(post) == 0 and len(fhir.requests) == seen
    first = post.records.case(case).images[0]
    post.records.review("berta", case, first.id, UNIDENTIFIED, "a remark")
    post.records.sign("berta", case, post.records.case(case).version)
    assert send(post) == 1
    [report] = fhir.now("DiagnosticReport")
    assert report["status"] == "amended" and len(report["result"]) == 2
    statuses = {each["status"] for each in fhir.now("Observation")}
    assert statuses == {"amended", "final"}
    [document] = fhir.now("DocumentReference")
    assert document["content"][0]["attachment"]["contentType"] == "application/pdf"
    post.records.erase("admin", case, "asked by the patient")
    assert send(post) == 1
    for kind in ("DiagnosticReport", "Observation", "DocumentReference"):
        assert {each["status"] for each in fhir.now(kind)} == {"entered-in-error"}
    assert len(fhir.now("Device")) == len(fhir.now("DiagnosticReport")) == 1
