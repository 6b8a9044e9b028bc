"""FHIR servers that differ, records that are older than they are, and cases that are erased."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from bcd.errors import BcdError
from bcd.interop.settings import site_settings
from bcd.serving.outbox.entries import Counts
from bcd.serving.outbox.listing import CONFIRMED, Listing
from bcd.serving.outbox.store import DELIVERED
from bcd.serving.records.cases import UNIDENTIFIED
from bcd.serving.records.tables import OUTBOX, RECORDS
from tests.serving.making import IDENTITY
from tests.serving.outbox.fhir_server import ISSUE, FhirServer, fhir_server
from tests.serving.outbox.making import Posting, new_case, posting, send
from tests.serving.records.making import images

LATER = 1e6  # seconds, more than any wait


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    """A FHIR server."""
    with fhir_server() as server:
        yield server


def statuses(fhir: FhirServer) -> list[str]:
    """Of everything on a server but Devices."""
    kinds = ("DiagnosticReport", "Observation", "DocumentReference")
    return [each["status"] for kind in kinds for each in fhir.now(kind)]


def test_an_older_backup_overwrites_nothing_even_if_its_numbers_are_higher(
    fhir: FhirServer, tmp_path: Path
) -> None:
    with posting(tmp_path / "now", fhir.url) as post:
        post.sender()
        case = new_case(post, 1, referred=1)
        send(post)
    shutil.copytree(tmp_path / "now", tmp_path / "old")
    with posting(tmp_path / "now", fhir.url) as post:
        [image] = post.records.case(case).images
        post.records.review("berta", case, image.id, UNIDENTIFIED, "a remark")
        post.records.sign("berta", case, post.records.case(case).version)
        send(post)
        signed = post.records.case(case).version
    seen = json.dumps(list(fhir.history.values()))
    with posting(tmp_path / "old", fhir.url) as post:
        for _ in range(signed):
            post.records.event("", "server started", {})
        post.records.add_images("anna", case, IDENTITY, images(1))
        assert post.records.case(case).version > signed
        send(post, later=LATER)
        [entry] = post.sender().outbox.entries()
    assert entry.state == "failed" and "not in these records" in entry.error
    assert json.dumps(list(fhir.history.values())) == seen


@pytest.mark.parametrize("how", ["outbox lost", "backup", "unreachable", "empty report"])
def test_an_erasure_reaches_what_the_server_has_and_makes_nothing(
    how: str, fhir: FhirServer, tmp_path: Path
) -> None:
    with posting(tmp_path / "a", fhir.url) as post:
        post.sender()
        case = new_case(post, 1)
        post.sender().outbox.collect()
        if how == "backup":
            shutil.copytree(tmp_path / "a", tmp_path / "b")
        failing = {"unreachable": "find", "empty report": "transaction"}.get(how)
        fhir.fault = lambda kind: "reset" if kind == failing else ""
        send(post)
        fhir.fault = lambda _: ""
        assert len(fhir.now("Observation")) == (failing is None)
    with posting(tmp_path / ("b" if how == "backup" else "a"), fhir.url) as post:
        if how == "outbox lost":
            with post.records.engine.begin() as connection:
                connection.execute(OUTBOX.delete())
        post.records.erase("admin", case, "asked by the patient")
        assert send(post, later=LATER) == 1
        assert post.sender().outbox.entries() == []
    count = {"unreachable": 0, "empty report": 1}.get(how, 2)
    assert statuses(fhir) == ["entered-in-error"] * count


@pytest.mark.parametrize("left", [("Observation", "DocumentReference"), ("Observation",), ()])
def test_an_erasure_reaches_what_is_there_without_a_report(
    left: tuple[str, ...], fhir: FhirServer, tmp_path: Path
) -> None:
    with posting(tmp_path, fhir.url, "fhir.names=true") as post:
        post.sender()
        case = new_case(post, 2)
        post.records.sign("berta", case, post.records.case(case).version)
        send(post)
        for key in [key for key in fhir.history if key[0] not in (*left, "Device")]:
            del fhir.history[key]
        post.records.erase("admin", case, "asked by the patient")
        for fault in ("reset", ""):  # an empty report is there at the second attempt
            fhir.fault = lambda kind, one=fault: one if kind == "transaction" else ""  # type: ignore[misc]
            send(post, later=LATER)
        assert post.sender().outbox.entries() == []
    count = {0: 0, 1: 3, 2: 4}[len(left)]
    assert statuses(fhir) == ["entered-in-error"] * count


def test_an_erasure_says_which_other_servers_have_the_case(
    fhir: FhirServer, tmp_path: Path
) -> None:
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        case = new_case(post, 1)
        send(post)
    with fhir_server() as other, posting(tmp_path, other.url) as post:
        post.records.erase("admin", case, "asked by the patient")
        send(post)
        outbox = post.sender().outbox
        for change in (lambda: 0, outbox.retry, outbox.add):
            change()
            send(post, later=LATER)
            [entry] = outbox.entries()
            assert entry.state == "failed" and entry.not_erased_on == (fhir.url,)
        assert outbox.counts() == Counts(0, 0, 1, {fhir.url: 1})
        assert statuses(other) == [] and "preliminary" in statuses(fhir)
    shutil.copytree(tmp_path, tmp_path / "copy")
    with posting(tmp_path / "copy", fhir.url) as post:  # a person has done it
        outbox = post.sender().outbox
        with pytest.raises(BcdError, match="no cases"):
            outbox.confirm_erased("carl", [case, "0" * 16])
        outbox.confirm_erased("carl", [case])
        assert outbox.entries() == [] and kinds(post)[-1] == CONFIRMED
    with posting(tmp_path, fhir.url) as post:  # back to the old one
        post.sender().outbox.retry()
        send(post)
        assert post.sender().outbox.entries() == []
    assert set(statuses(fhir)) == {"entered-in-error"}


def test_an_erasure_is_shown_while_nothing_is_posted(fhir: FhirServer, tmp_path: Path) -> None:
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        case = new_case(post, 1)
        send(post)
        assert post.sender().outbox.counts().not_erased == 0
        post.records.erase("admin", case, "asked by the patient")
        [entry] = Listing(post.records.engine).entries()  # `collect` was not called
        assert (entry.case_id, entry.not_erased_on) == (case, (fhir.url,))


def kinds(post: Posting) -> list[str]:
    """Of all records."""
    with post.records.engine.connect() as connection:
        return list(connection.execute(select(RECORDS.c.kind)).scalars())


def test_what_is_added_is_posted_whatever_the_server_has(fhir: FhirServer, tmp_path: Path) -> None:
    with posting(tmp_path, fhir.url, "fhir.names=true") as post:
        post.sender()
        case = new_case(post, 2)
        post.records.sign("berta", case, post.records.case(case).version)
        send(post)
        assert "a label" in json.dumps(fhir.now("DiagnosticReport"))
        posted = kinds(post).count(DELIVERED)
        for kind in ("Observation", "DocumentReference"):
            del fhir.history[next(key for key in fhir.history if key[0] == kind)]
    with posting(tmp_path, fhir.url) as post:
        outbox = post.sender().outbox
        outbox.add([case])
        send(post)
        assert len(fhir.now("Observation")) == 2 and len(fhir.now("DocumentReference")) == 1
        assert "a label" not in json.dumps(fhir.now("DiagnosticReport"))
        assert kinds(post).count(DELIVERED) == posted + 1
        seen = len(fhir.requests)
        assert send(post) == 0 and len(fhir.requests) == seen and outbox.entries() == []


def test_no_document_is_made_only_to_be_in_error(fhir: FhirServer, tmp_path: Path) -> None:
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        case = new_case(post, 1)
        send(post)
        post.records.sign("berta", case, post.records.case(case).version)
        post.records.erase("admin", case, "asked by the patient")
        send(post)
    assert statuses(fhir) == ["entered-in-error"] * 2


def test_identifiers_are_those_of_the_first_start(fhir: FhirServer, tmp_path: Path) -> None:
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        case = new_case(post, 1)
        send(post)
    with posting(tmp_path, fhir.url, "url=https://other.example.org") as post:
        post.records.sign("berta", case, post.records.case(case).version)
        send(post)
    assert statuses(fhir) == ["final", "final", "current"]


def test_settings_of_a_site_are_named(fhir: FhirServer, tmp_path: Path) -> None:
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        case = post.records.open_case("anna", "", IDENTITY, 1)
        plain, image = images(2)
        given = replace(image[1], profile="9" * 64, threshold=0.25)
        post.records.add_images("anna", case, IDENTITY, [plain, (image[0], given)])
        send(post)
    said = site_settings(given.profile, given.threshold)
    [report] = fhir.now("DiagnosticReport")
    assert said in report["conclusion"] and report["conclusion"].endswith(said)
    found = []
    for each in fhir.now("Observation"):
        parts = {part["code"]["coding"][0]["code"]: part for part in each["component"]}
        found.append((
            parts.get("site-threshold", {}).get("valueQuantity", {}).get("value"),
            parts.get("site-profile", {}).get("valueString"),
            said in [note["text"] for note in each["note"]],
        ))  # fmt: skip
    assert found == [(None, None, False), (given.threshold, given.profile, True)]


@pytest.mark.parametrize(
    ("status", "issue", "state", "error"),
    [
        ("422", {"code": "invalid"}, "failed", "HTTP 422"),
        ("422", 5, "failed", "HTTP 422"),
        ("422", [], "failed", "HTTP 422"),
        ("412", [{**ISSUE, "code": "multiple-matches"}], "failed", "HTTP 412 (multiple-matches)"),
        ("412", [ISSUE], "waiting", "HTTP 412 (conflict), each time that the report was read"),
    ],
)
def test_what_an_error_means(
    status: str, issue: object, state: str, error: str, fhir: FhirServer, tmp_path: Path
) -> None:
    fhir.issue, fhir.fault = issue, lambda kind: status if kind == "transaction" else ""
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        new_case(post, 1)
        send(post)
        [entry] = post.sender().outbox.entries()
    assert (entry.state, entry.error) == (state, error)


def test_the_first_contents_have_a_condition_whatever_says_the_version(
    fhir: FhirServer, tmp_path: Path
) -> None:
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        for headers in (lambda place, etag: {"ETag": etag, "Location": place}, lambda place, _: {
            "Location": place
        }):  # fmt: skip
            fhir.created = lambda location, etag, made=headers: made(  # type: ignore[misc]
                location.partition("/_history")[0], etag
            )
            new_case(post, 1)
            send(post)
        assert post.sender().outbox.entries() == []
    sent = [json.loads(body) for method, _, _, body in fhir.requests if method == "POST"]
    bundles = [each for each in sent if each["resourceType"] == "Bundle"]
    assert [each["entry"][-1]["request"].get("ifMatch") for each in bundles] == ['W/"1"'] * 2
