"""What becomes of one case at a FHIR server, and of each kind of failure."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pypdf import PdfReader

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop.fhir.bundle import Identifiers, version_of
from bcd.serving.records.cases import OPEN, UNIDENTIFIED, NewImage, Source
from tests.serving.making import IDENTITY
from tests.serving.outbox.fhir_server import FhirServer, HttpError, fhir_server
from tests.serving.outbox.making import BASE, Posting, new_case, posting, send
from tests.serving.records.making import answer, content


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    """A FHIR server."""
    with fhir_server() as server:
        yield server


@pytest.fixture
def post(fhir: FhirServer, tmp_path: Path) -> Iterator[Posting]:
    """Services that post to it."""
    with posting(tmp_path, fhir.url) as made:
        yield made


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
    assert send(post) == 1
    kept = {key[1]: len(each) for key, each in fhir.history.items() if key[0] == "Observation"}
    assert sorted(kept.values()) == [1, 2], "the other image's Observation has changed too"
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


def document(fhir: FhirServer) -> bytes:
    """Text and properties of the last report that was posted as PDF."""
    attachment = fhir.now("DocumentReference")[-1]["content"][0]["attachment"]
    read = PdfReader(io.BytesIO(base64.b64decode(attachment["data"])))
    return "\n".join([*(page.extract_text() for page in read.pages), str(read.metadata)]).encode()


def test_nothing_that_people_typed_leaves_unless_asked(fhir: FhirServer, tmp_path: Path) -> None:
    said = {}
    for names in ("false", "true"):
        with posting(tmp_path / names, fhir.url, f"fhir.names={names}") as post:
            post.sender()
            case = new_case(post, 1, referred=1)
            [image] = post.records.case(case).images
            post.records.review("berta", case, image.id, UNIDENTIFIED, "the remark")
            send(post)
            post.records.sign("carl", case, post.records.case(case).version)
            send(post)
            said[names] = b"".join(body for *_, body in fhir.requests) + document(fhir)
            fhir.requests.clear()
    for typed in (b"a label", b"the remark", b"berta", b"carl", b"anna", b"0.png"):
        assert typed not in said["false"], typed
    for typed in (b"a label", b"the remark", b"berta", b"carl", b"anna", b"0.png"):
        assert typed in said["true"], typed
    for sent in said.values():
        assert sent.count(DISCLAIMER.encode()) > 3


def dicom_case(post: Posting, **kept: str) -> str:
    """A signed case of one DICOM image with kept attributes."""
    case = post.records.open_case("anna", "a label", IDENTITY, 1)
    image = NewImage("a.dcm", content(0), "", Source("1" * 64, 1), kept)
    post.records.add_images("anna", case, IDENTITY, [(image, answer(0))])
    post.records.sign("berta", case, post.records.case(case).version)
    return case


def test_of_dicom_attributes_only_a_patient_id_leaves(fhir: FhirServer, tmp_path: Path) -> None:
    keep = "dicom.keep=[PatientID,PatientName,AccessionNumber]"
    with posting(tmp_path, fhir.url, "fhir.names=true", keep) as post:
        post.sender()
        dicom_case(post, PatientID="PAT-7", PatientName="Doe^Jane", AccessionNumber="ACC9")
        send(post)
        read = document(fhir)
        for uncertain in ("PAT-8; PAT-9", "PAT\ufffd8"):
            dicom_case(post, PatientID=uncertain)
            send(post)
    assert b"PAT-7" in read and b"Doe^Jane" not in read and b"ACC9" not in read
    assert b"Doe^Jane" not in b"".join(body for *_, body in fhir.requests)
    patients = [each.get("subject") for each in fhir.now("DiagnosticReport")]
    assert patients == [{"type": "Patient", "identifier": {"value": "PAT-7"}}, None, None]


FAULTS = {
    "409": "waiting", "412": "waiting", "500": "waiting", "503": "waiting", "401": "waiting",
    "429": "waiting", "reset": "waiting", "truncated": "waiting", "garbage": "waiting",
    "lost": "waiting", "late": "waiting", "400": "failed", "404": "failed", "422": "failed",
    "301": "failed",
}  # fmt: skip


TRIED = [("transaction", fault) for fault in FAULTS]
TRIED += [(kind, fault) for kind in ("find", "create") for fault in ("lost", "truncated", "422")]


@pytest.mark.parametrize(("kind", "fault"), TRIED)
def test_each_failure_is_tried_again_or_shown(
    kind: str, fault: str, post: Posting, fhir: FhirServer
) -> None:
    post.sender()
    case = new_case(post, 1)
    fhir.fault = lambda each: fault if each == kind else ""
    cfg = post.services.cfg.fhir
    if fault in ("lost", "late"):
        cfg.timeout_seconds, fhir.slow = 0.2, 0.4 if fault == "lost" else 60.0
    assert send(post) == 1
    outbox = post.sender().outbox
    [entry] = outbox.entries()
    assert (entry.case_id, entry.state, entry.sent) == (case, FAULTS[fault], None)
    assert entry.error and "secret" not in entry.error
    assert getattr(outbox.counts(), FAULTS[fault]) == 1
    if fault == "late":  # it is carried out after all
        fhir.go_on.set()
        assert fhir.carried_out.wait(20)
    fhir.fault, cfg.timeout_seconds = lambda _: "", 30.0
    if FAULTS[fault] == "failed":
        assert send(post, later=1e6) == 0
        assert outbox.retry() == 1
    assert send(post) == 1
    assert outbox.entries() == []
    [report] = fhir.now("DiagnosticReport")
    assert version_of(report, Identifiers(BASE)).startswith(f"{post.records.case(case).version}:")
    assert len(fhir.now("Observation")) == len(fhir.now("Device")) == 1


def test_waits_double_up_to_an_hour_and_the_server_may_ask_for_more(
    post: Posting, fhir: FhirServer
) -> None:
    post.sender()
    new_case(post, 1)
    fhir.fault = lambda _: "500"
    waits = []
    for _ in range(14):
        assert send(post, later=4000.0) == 1
        [entry] = post.sender().outbox.entries()
        waits.append(entry.due - post.clock())
    assert waits[:3] == [5.0, 10.0, 20.0] and waits[-1] == 3600.0
    fhir.fault, fhir.retry_after = lambda _: "503", "5000"
    send(post, later=4000.0)
    [entry] = post.sender().outbox.entries()
    assert entry.due == post.clock() + 5000
    post.clock.seconds += 4000.0
    seen = len(fhir.requests)
    assert send(post, later=0.0) == 0 and len(fhir.requests) == seen


@pytest.mark.parametrize("kind", ["create", "transaction"])
def test_a_request_that_is_carried_out_after_the_next_one_doubles_nothing(
    kind: str, post: Posting, fhir: FhirServer
) -> None:
    post.sender()
    case = new_case(post, 1)
    cfg = post.services.cfg.fhir
    fhir.fault = lambda each: "late" if each == kind else ""
    cfg.timeout_seconds, fhir.slow = 0.2, 60.0
    send(post)
    first = list(post.sender().outbox.entries())
    fhir.fault, cfg.timeout_seconds = lambda _: "", 30.0
    send(post)
    fhir.go_on.set()
    assert fhir.carried_out.wait(20)
    post.records.sign("berta", case, post.records.case(case).version)
    send(post)
    assert len(first) == 1 and post.sender().outbox.entries() == []
    [report] = fhir.now("DiagnosticReport")
    assert report["status"] == "final"
    assert len(fhir.now("Observation")) == len(fhir.now("Device")) == 1


def test_a_change_while_a_case_is_posted_is_posted_next(post: Posting, fhir: FhirServer) -> None:
    post.sender()
    case = new_case(post, 1)

    def sign(kind: str) -> str:
        if kind == "transaction" and post.records.case(case).status == OPEN:
            post.records.sign("berta", case, post.records.case(case).version)
            post.sender().outbox.collect()
        return ""

    fhir.fault = sign
    assert send(post) == 1
    [report] = fhir.now("DiagnosticReport")
    [entry] = post.sender().outbox.entries()
    assert report["status"] == "preliminary" and entry.version == post.records.case(case).version
    assert send(post) == 1
    [report] = fhir.now("DiagnosticReport")
    assert report["status"] == "final"


def test_a_server_that_asks_for_peace_gets_it_for_all_cases(
    post: Posting, fhir: FhirServer
) -> None:
    sender = post.sender()
    for _ in range(3):
        new_case(post, 1)
    fhir.fault, fhir.retry_after = lambda _: "503", "60"
    assert send(post, sender) == 1


def test_a_request_that_arrives_late_overwrites_nothing(post: Posting, fhir: FhirServer) -> None:
    post.sender()
    case = new_case(post, 2, referred=1)
    send(post)
    image = post.records.case(case).images[0]
    post.records.review("berta", case, image.id, IDENTITY.classes[0], "a remark")
    held: list[bytes] = []
    fhir.fault = lambda kind: "500" if kind == "transaction" else ""
    send(post)
    held = [body for method, _, _, body in fhir.requests if method == "POST"][-1:]
    fhir.fault = lambda _: ""
    post.records.sign("berta", case, post.records.case(case).version)
    assert send(post) == 1
    after = json.dumps(fhir.now("DiagnosticReport") + fhir.now("Observation"))
    with pytest.raises(HttpError) as refused:
        fhir.transaction(json.loads(held[0]))
    assert refused.value.status == 412
    assert json.dumps(fhir.now("DiagnosticReport") + fhir.now("Observation")) == after


def test_later_reports_of_other_records_are_not_overwritten(
    post: Posting, fhir: FhirServer
) -> None:
    post.sender()
    case = new_case(post, 1)
    send(post)
    [(_, versions)] = [kept for kept in fhir.history.items() if kept[0][0] == "DiagnosticReport"]
    versions[-1]["extension"][0]["valueString"] = f"1000:{'0' * 64}"
    post.records.sign("berta", case, post.records.case(case).version)
    send(post)
    [entry] = post.sender().outbox.entries()
    assert entry.state == "failed" and "not in these records" in entry.error
    assert len(versions) == 2


def test_a_case_that_was_erased_before_it_left_is_not_posted(
    post: Posting, fhir: FhirServer
) -> None:
    post.sender()
    case = new_case(post, 1)
    post.records.erase("admin", case, "asked by the patient")
    assert send(post) == 1
    assert fhir.history == {} and post.sender().outbox.entries() == []


def test_a_token_is_read_for_each_request_and_no_proxy_gets_it(
    fhir: FhirServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    token = tmp_path / "token"
    with posting(tmp_path / "records", fhir.url, f"fhir.token_file={token}") as post:
        post.sender()
        new_case(post, 1)
        send(post)
        [entry] = post.sender().outbox.entries()
        assert "token_file" in entry.error and fhir.requests == []
        for word in ("first", "second"):
            token.write_text(f"{word}\n", encoding="ascii")
            send(post, later=100.0)
            new_case(post, 1)
            sent = {head["authorization"] for _, _, head, _ in fhir.requests}
            assert f"Bearer {word}" in sent
