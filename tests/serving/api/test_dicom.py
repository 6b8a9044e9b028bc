"""DICOM uploads: a PNG of each frame takes their place, and one that cannot be read waits."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from bcd.data import sandbox
from bcd.data.items import Fault
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import ConfigError
from bcd.serving import dicom, start
from bcd.serving.records.tables import RECORDS
from tests.helpers.dicom import make_dicom
from tests.serving.making import SIDE, encoded, serve_config
from tests.serving.running import Running, running

PIXELS = np.stack([draw_smear(CLASS_NAMES[n], slide=n, index=n, size=SIDE) for n in range(3)])
ONE, THREE = make_dicom(PIXELS[0]).data, make_dicom(PIXELS, "rle").data
CUT = ONE[: len(ONE) // 2]
MEGABYTES = 0.3  # of a request, and of all images made of DICOM files
DICOM = {"Content-Type": "application/dicom"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running app that keeps images."""
    keys = ("images.keep=true", "limits.images=4", f"limits.request_mb={MEGABYTES}",
            f"limits.image_mb={MEGABYTES}", f"limits.memory_mb={2 * MEGABYTES}")  # fmt: skip
    with running(tmp_path_factory.mktemp("dicom"), *keys) as made:
        yield made


def sha256(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def form(**files: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Files of a form, by name."""
    return [("images", (name, data)) for name, data in files.items()]


def predicted(app: Running, **files: bytes) -> list[dict[str, Any]]:
    """The answers for files."""
    got = app.all.post("/v1/predict", files=form(**files))
    assert got.status_code == 200, got.text
    found: list[dict[str, Any]] = got.json()["images"]
    return found


def opened(app: Running) -> str:
    """The id of a new case."""
    return str(app.all.post("/v1/cases", json={"label": "S-1"}).json()["id"])


@pytest.mark.parametrize("name", ["a.dcm", "IM000001", "x.png"])
def test_a_frame_is_answered_like_a_png_of_it_whatever_the_file_is_called(
    app: Running, name: str
) -> None:
    png, frame = predicted(app, **{"smear.png": encoded(PIXELS[0]), name: ONE})
    same = ("probabilities", "class", "malignant", "refer", "reasons", "ood_score")
    assert {key: frame[key] for key in same} == {key: png[key] for key in same}
    assert png["frame"] is None and png["source_sha256"] is None
    assert (frame["name"], frame["frame"], frame["source_sha256"]) == (name, 1, sha256(ONE))
    raw = app.all.post("/v1/predict", content=ONE, headers=DICOM).json()["images"]
    assert [one["sha256"] for one in raw] == [frame["sha256"]] != [sha256(ONE)]
    with app.services.records.engine.connect() as connection:
        last = connection.scalar(select(RECORDS.c.payload).order_by(RECORDS.c.number.desc()))
    assert json.loads(last or "")["source"]["sha256"] == sha256(ONE)


def test_each_frame_is_an_image_of_the_case_once(app: Running) -> None:
    case_id, key = opened(app), {"Idempotency-Key": "a-client-chose-this"}
    path = f"/v1/cases/{case_id}/images"
    first, again = (
        app.all.post(path, files=form(**{"s.dcm": THREE, "t.dcm": ONE}), headers=key)
        for _ in range(2)
    )
    assert first.status_code == again.status_code == 201
    assert again.json()["images"] == first.json()["images"]
    images = app.all.get(f"/v1/cases/{case_id}").json()["images"]
    names = ["s.dcm frame 1", "s.dcm frame 2", "s.dcm frame 3", "t.dcm"]
    assert [image["name"] for image in images] == names
    assert [image["frame"] for image in images] == [1, 2, 3, 1]
    assert {image["source_sha256"] for image in images} == {sha256(THREE), sha256(ONE)}
    alone = [one["sha256"] for one in predicted(app, **{"s.dcm": THREE})]
    assert [image["answer"]["sha256"] for image in images[:3]] == alone
    for data in (make_dicom(PIXELS[1]).data, make_dicom(PIXELS[::-1]).data):
        assert app.all.post(path, files=form(a=data, b=ONE), headers=key).status_code == 409
    page = app.all.get(f"/cases/{case_id}/images/{images[1]['id']}").text
    assert "Frame 2 of the DICOM file" in page and sha256(THREE)[:12] in page
    kept = app.services.records.image(case_id, images[3]["id"])
    assert kept is not None and sha256(kept) == images[3]["answer"]["sha256"]


def test_an_upload_id_is_for_one_dicom_file_also_if_it_cannot_be_read(app: Running) -> None:
    path, key = f"/v1/cases/{opened(app)}/images", {"Idempotency-Key": "a-client-chose-this"}
    got = [app.all.post(path, files=form(a=data), headers=key) for data in (CUT, CUT, CUT[:-9])]
    assert [each.status_code for each in got] == [201, 201, 409]


def test_a_dicom_file_that_cannot_be_read_waits_and_nothing_of_it_is_kept(app: Running) -> None:
    case_id = opened(app)
    files = form(**{"cut.dcm": CUT, "no preamble": ONE[128:]})
    assert app.all.post(f"/v1/cases/{case_id}/images", files=files).status_code == 201
    case = app.all.get(f"/v1/cases/{case_id}").json()
    assert [(image["waits"], image["kept"]) for image in case["images"]] == [(True, False)] * 2
    cut = case["images"][0]
    assert cut["answer"]["error"] and cut["answer"]["sha256"] == sha256(CUT)
    for image in case["images"]:
        assert app.services.records.image(case_id, image["id"]) is None
        page = app.all.get(f"/cases/{case_id}/images/{image['id']}").text
        assert "Nothing of it is kept but its hash." in page
    assert 'bcd_answers_total{answer="none",referred="true"' in app.all.get("/metrics").text


@pytest.mark.parametrize(
    ("data", "query", "status"),
    [(ONE, "", 200), (ONE, "?frame=1", 200), (THREE, "?frame=2", 200), (THREE, "", 422),
     (THREE, "?frame=4", 422), (ONE, "?frame=2", 422), (THREE, "?frame=0", 422), (CUT, "", 422),
     (encoded(PIXELS[0]), "?frame=2", 422), (encoded(PIXELS[0]), "?frame=1", 200)],
)  # fmt: skip
def test_one_frame_is_explained(app: Running, data: bytes, query: str, status: int) -> None:
    got = app.all.post(f"/v1/explain{query}", content=data, headers=DICOM)
    assert got.status_code == status, got.text
    if status == 422:
        assert "frame" in got.text or "cut off" in got.json()["detail"]


def test_what_is_answered_later_is_not_taken_while_reading_processes_end(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, later = f"/v1/cases/{opened(app)}/images", {"Prefer": "respond-async"}
    real, read = sandbox._Reader.read, []

    def ends(*given: Any) -> Any:
        read.append(given)
        return real(*given) if len(read) < 3 else Fault("the decoder crashed")

    with monkeypatch.context() as patch:  # at the second frame, or where it is read once more
        patch.setattr(sandbox._Reader, "read", ends)
        refused = app.all.post(images, content=THREE, headers=DICOM | later)
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) > 0
    case = app.all.get(images.removesuffix("/images")).json()
    assert (case["images"], case["queued"]) == ([], 0)
    assert app.all.post(images, content=THREE, headers=DICOM | later).status_code == 202


def test_frames_count_as_images_and_their_pngs_as_bytes(app: Running) -> None:
    many = app.all.post("/v1/predict", files=form(a=THREE, b=encoded(PIXELS[0]), c=ONE))
    assert (many.status_code, many.json()["detail"][:16]) == (413, "More than 4 imag")
    five = make_dicom(np.stack([PIXELS[0]] * 5)).data
    alone = app.all.post("/v1/predict", content=five, headers=DICOM)
    assert alone.status_code == 413
    assert alone.json()["detail"].startswith("It holds 5 pictures, at most 4 are accepted")
    noise = np.random.default_rng(0).integers(0, 256, (4, 80, 400, 3), np.uint8)
    assert len(encoded(noise[0])) < MEGABYTES * 1e6 < 4 * len(encoded(noise[0]))
    large = make_dicom(noise, "jpeg").data  # smaller than the PNGs of what is in it
    assert len(large) < MEGABYTES * 1e6
    assert app.all.post("/v1/predict", content=large, headers=DICOM).status_code == 413
    wide = make_dicom(np.concatenate(noise, axis=1), "jpeg").data
    (answer,) = app.all.post("/v1/predict", content=wide, headers=DICOM).json()["images"]
    assert "too large as PNG" in answer["error"]


def test_images_made_of_dicom_files_fill_the_memory_until_they_are_answered(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = dicom._room_of(app.services)
    predicted(app, **{"s.dcm": THREE})
    gc.collect()
    assert room.used == 0
    monkeypatch.setattr(room, "used", int(2 * MEGABYTES * 1e6))
    full = app.all.post("/v1/predict", content=ONE, headers=DICOM)
    assert full.status_code == 429 and full.headers["retry-after"]


def test_unknown_attributes_to_keep_are_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "configure_logs", lambda _: None)
    with pytest.raises(ConfigError, match=r"dicom\.keep=PatientId: .*'PatientID'"):
        start.serve(serve_config(tmp_path / "new", "dicom.keep=[PatientId]"))
    assert not (tmp_path / "new").exists()
