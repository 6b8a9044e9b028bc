"""Nothing in a DICOM file that names a person leaves the server or stays in it, unless it is kept.

A file with more than fifty such attributes is sent along every way in. Then every answer, log,
table and report is searched for each of their values.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import UID
from pynetdicom.ae import ApplicationEntity

from bcd.data.dicom.header import is_dicom
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.serving.records.backup import back_up
from bcd.serving.records.database import database_url
from bcd.serving.records.verify import verify
from bcd.storage import digest
from tests.helpers.dicom import MICROSCOPIC, identified, make_dicom
from tests.helpers.searching import files_of, leaks
from tests.serving.outbox.fhir_server import fhir_server
from tests.serving.process import Server, serving
from tests.serving.running import running

DICOM = {"Content-Type": "application/dicom"}
KEPT = "PatientID"
DEADLINE = 60.0  # seconds


def smears(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Drawn smears, RGB, (count, height, width, 3); one without the first axis."""
    drawn = [draw_smear(CLASS_NAMES[n % 4], slide=n, index=n, size=96) for n in range(count)]
    return np.stack(drawn) if count > 1 else drawn[0]


@dataclass
class Given:
    """Files with names in them.

    Attributes:
        single: A DICOM file of one frame.
        several: One of two frames.
        broken: By what is wrong with them, files that cannot be read.
        values: All values of attributes, and their sha256; that of SOP Instance UIDs is recorded.
        kept: That of `KEPT`.
    """

    single: bytes
    several: bytes
    broken: dict[str, bytes] = field(default_factory=dict)
    values: list[str] = field(default_factory=list)
    kept: str = ""

    @property
    def uploads(self) -> list[tuple[str, tuple[str, bytes]]]:
        """All of them as the files of a form."""
        files = {"single.dcm": self.single, "several": self.several, **self.broken}
        return [("images", each) for each in files.items()]


@pytest.fixture(scope="module")
def given() -> Given:
    """Files with names in them."""
    single, values = identified(make_dicom(smears(1)).data)
    several, more = identified(make_dicom(smears(2), "rle").data)
    made = Given(single, several, values=sorted({str(value) for value in (*values, *more)}))
    made.kept = str(dcmread(io.BytesIO(single)).PatientID)
    made.broken = {
        "cut off.dcm": single[: len(single) * 2 // 3],
        "cut off in its header": single[:3000],
        "no preamble.dcm": single[128:],
        "first bytes missing": single[200:],
        "x.png": b"\x89PNG\r\n\x1a\n" + single,
    }
    wrong = {
        "NumberOfFrames": "leakframeqzxv", "PhotometricInterpretation": "LEAK_PHOTO_QZXV",
        "Rows": "leakrowsqzxv",
        "TransferSyntaxUID": "1.2.3.98765.4.321.7391", "SOPClassUID": "1.2.3.98765.4.321.7392",
        "StudyDate": "leakdateqzxv", "SpecificCharacterSet": "QZXVLEAKCS",
        "BitsAllocated": "leakbitsqzxv",
    }  # fmt: skip
    for keyword, value in wrong.items():
        made.broken[f"{len(made.broken)} broken"] = with_text(single, keyword, value)
        made.values.append(value)
    uids = {str(dcmread(io.BytesIO(each)).SOPInstanceUID) for each in (single, several)}
    made.values += [digest(value) for value in made.values if value not in uids]
    return made


def with_text(data: bytes, keyword: str, value: str) -> bytes:
    """A DICOM file with a text for a value, whatever the attribute's type is."""
    dataset = dcmread(io.BytesIO(data))
    if keyword == "TransferSyntaxUID":
        dataset.file_meta.TransferSyntaxUID = UID(value)
    elif keyword == "SpecificCharacterSet":  # pydicom would say it here
        dataset.SpecificCharacterSet = "ISO_IR 100"
    else:
        dataset.add_new(keyword, "UI" if keyword.endswith("UID") else "LO", value)
    stream = io.BytesIO()
    dcmwrite(stream, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return stream.getvalue().replace(b"ISO_IR 100", value.encode())


class Client:
    """Sends requests to a server and holds all that is answered.

    Args:
        server: It answers.
    """

    def __init__(self, server: Server) -> None:
        headers = {"Authorization": f"Bearer {server.token}"}
        self._client = httpx.Client(base_url=server.url, headers=headers, timeout=DEADLINE)
        self.answers: dict[str, bytes] = {}

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request."""
        answer = self._client.request(method, path, **options)
        seen = repr(dict(answer.headers)).encode() + b"\n" + answer.content
        self.answers[f"{len(self.answers)} {method} {path}"] = seen
        return answer

    def get(self, path: str) -> httpx.Response:
        """Sends a GET that is answered."""
        answer = self.send("GET", path)
        assert answer.status_code == 200, path
        return answer

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def look_at_everything(client: Client, case_id: str) -> None:
    """Reviews, signs and reads a case in every form, once no image of it waits."""
    case, page = f"/v1/cases/{case_id}", f"/cases/{case_id}"
    last = time.monotonic() + DEADLINE
    while client.get(case).json()["queued"]:
        assert time.monotonic() < last
        time.sleep(0.1)
    for image in client.get(case).json()["images"]:
        one = f"{page}/images/{image['id']}"
        if image["waits"]:
            review = {"finding": "Unidentified", "remark": "looked at"}
            answer = client.send("POST", f"{case}/images/{image['id']}/review", json=review)
            assert answer.status_code == 204
        client.get(one)
        client.send("GET", f"{one}/thumbnail.png")
        if image["number"] <= 2:
            client.get(f"{one}?view=evidence")
            for picture in ("image", "cells", "evidence"):
                client.get(f"{one}/{picture}.png")
            for name in ("heatmap", "capture", "image"):
                client.get(f"/v1{one}/{name}.dcm")
    sign = {"version": client.get(case).json()["version"]}
    assert client.send("POST", f"{case}/sign", json=sign).status_code == 204
    for path in (case, "/v1/cases", "/cases", page, f"{page}/report", f"{page}/report.csv",
                 f"{page}/report.pdf", f"{case}/report.dcm", "/metrics", "/dashboard"):  # fmt: skip
        client.get(path)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def store(port: int, *files: bytes) -> list[int]:
    """Sends files to the DICOM node; returns the status of each."""
    entity = ApplicationEntity("SCANNER")
    for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"):
        entity.add_requested_context(MICROSCOPIC, syntax)
    association = entity.associate("127.0.0.1", port, ae_title="BCD")
    assert association.is_established
    try:
        return [association.send_c_store(dcmread(io.BytesIO(each))).Status for each in files]
    finally:
        association.release()


@pytest.fixture(scope="module")
def served(
    given: Given, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, bytes], Path]]:
    """All that a server has said and written about these files, and the folder of its records."""
    place = tmp_path_factory.mktemp("names")
    folder, drop, port, own = place / "records", place / "drop", free_port(), free_port()
    (drop / "S-1").mkdir(parents=True)
    (drop / "S-1" / "1.dcm").write_bytes(given.single)
    keys = ("images.keep=true", f"watch={drop}", "scanner.stable_seconds=0.2", f"dicom.port={port}",
            "jobs.poll_seconds=0.1", "log.level=debug", "fhir.delay_seconds=0",
            "fhir.names=true", f"port={own}", f"url=http://127.0.0.1:{own}")  # fmt: skip
    with fhir_server() as fhir, serving(folder, 0, *keys, f"fhir.url={fhir.url}") as server:
        client = Client(server)
        for _, (_, data) in given.uploads:
            client.send("POST", "/v1/predict", content=data, headers=DICOM)
            client.send("POST", "/v1/explain?frame=1", content=data, headers=DICOM)
        assert client.send("POST", "/v1/predict", files=given.uploads).status_code == 200
        case_id = client.send("POST", "/v1/cases", json={"label": "S-2"}).json()["id"]
        key = {"Idempotency-Key": "a-key-of-a-client"}
        for path in (f"/v1/cases/{case_id}/images", f"/cases/{case_id}/images"):
            added = client.send("POST", path, files=given.uploads, headers=key)
            assert added.status_code in (201, 303, 403)  # a page needs a session
        later = {"Prefer": "respond-async"}
        added = client.send(
            "POST", f"/v1/cases/{case_id}/images", files=given.uploads, headers=later
        )
        assert added.status_code == 202
        store(port, given.single, given.several)
        look_at_everything(client, case_id)
        last = time.monotonic() + DEADLINE
        while (
            not (drop / "done" / "S-1" / "1.dcm").is_file()
            or _cases_with_images(client) < 4
            or ({one["status"] for one in fhir.now("DiagnosticReport")} < {"preliminary", "final"})
        ):
            assert time.monotonic() < last
            time.sleep(0.2)
        client.close()
        server.process.terminate()
        assert server.process.wait(DEADLINE) == 0
        log = server.log.read_bytes()
    client.answers["FHIR"] = b"".join(repr(asked).encode() + asked[-1] for asked in fhir.requests)
    back_up(database_url(None, str(folder)), place / "backup.sqlite")
    written = files_of(folder) | {"backup": (place / "backup.sqlite").read_bytes()}
    yield client.answers | {"log": log} | written, folder


def _cases_with_images(client: Client) -> int:
    return sum(case["images"] > 0 for case in client.get("/v1/cases").json()["cases"])


def test_no_attribute_is_in_any_answer_log_or_file(
    served: tuple[dict[str, bytes], Path], given: Given
) -> None:
    places, folder = served
    assert len(given.values) > 60 and len(places) > 100
    answers = b"".join(places.values())
    assert b'"frame":2' in answers and b"damaged" in answers  # they were read, and refused
    assert leaks(given.values, places) == set()
    found = verify(database_url(None, str(folder)))
    assert (found.problems, found.cases) == ((), 4)


def test_what_is_kept_is_where_it_belongs_until_it_is_erased(given: Given, tmp_path: Path) -> None:
    keys = (f"dicom.keep=[{KEPT}]", "images.keep=true", "jobs.poll_seconds=60")
    with running(tmp_path / "records", *keys) as app:
        user = app.all
        later = {"Prefer": "respond-async"}
        waits = user.post("/v1/cases", json={"label": "S-4"}).json()["id"]
        path = f"/v1/cases/{waits}/images"
        # Others may be anything, and wait as they are, encrypted if there is a key.
        known = [each for each in given.uploads if is_dicom(each[1][1])]
        assert user.post(path, files=known, headers=later).status_code == 202
        assert user.get(f"/v1/cases/{waits}").json()["images"] == []
        assert {value for value, _ in leaks(given.values, files_of(app.folder))} == {given.kept}
        assert user.post(f"/v1/cases/{waits}/erase", json={"reason": "asked"}).status_code == 204
        assert leaks(given.values, files_of(app.folder)) == set()
        case_id = user.post("/v1/cases", json={"label": "S-3"}).json()["id"]
        added = user.post(f"/v1/cases/{case_id}/images", files=given.uploads)
        assert added.status_code == 201
        image = added.json()["images"][0]["id"]
        case, page = f"/v1/cases/{case_id}", f"/cases/{case_id}"
        belongs = {f"GET {path}" for path in (case, f"{page}/images/{image}", f"{page}/report",
                   f"{page}/report.csv", f"{page}/report.pdf")}  # fmt: skip
        others = ("/v1/cases", "/cases", page, "/dashboard", "/metrics")
        said = {f"GET {path}": user.get(path).content for path in others}
        said |= {name: user.get(name.removeprefix("GET ")).content for name in belongs}
        said["POST"] = added.content + user.post("/v1/predict", files=given.uploads).content
        assert leaks(given.values, said) == {(given.kept, name) for name in belongs}
        assert {value for value, _ in leaks(given.values, files_of(app.folder))} == {given.kept}
        assert user.post(f"{case}/erase", json={"reason": "asked"}).status_code == 204
        assert leaks(given.values, files_of(app.folder)) == set()
        assert leaks(given.values, {"": user.get(case).content}) == set()
        head = app.services.records.head()
    assert verify(database_url(None, str(tmp_path / "records")), head).problems == ()
