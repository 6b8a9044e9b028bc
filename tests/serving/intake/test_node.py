"""The DICOM node: who may send, what is taken, and that nothing is doubled or told."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bcd.data import sandbox
from bcd.data.items import Fault
from bcd.errors import BcdError, ConfigError
from bcd.serving.errors import StorageFullError
from bcd.serving.intake import storing
from bcd.serving.intake.start import open_intake
from bcd.serving.intake.storing import BUSY, MISMATCH, REFUSED, STORED, USER, Faults, store
from bcd.storage import digest
from tests.helpers.dicom import identified, written
from tests.serving.intake.following import case_labelled, cases_of
from tests.serving.intake.sending import association, made, pixels_of, read, send
from tests.serving.making import encoded, serve_config
from tests.serving.running import Running, running

OTHER = "SCANNER2"  # of another site
MEGABYTES = 0.2  # of an object at most, here
KEYS = (
    "dicom.port=0", "dicom.allow=[SCANNER1]", "site=north", "+sites.south.ae_titles=[SCANNER2]",
    "jobs.poll_seconds=0.05", f"limits.image_mb={MEGABYTES}", "log.level=debug",
)  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running app with a node."""
    with running(tmp_path_factory.mktemp("node"), *KEYS) as started:
        yield started


@pytest.fixture
def node(app: Running) -> str:
    """Its AE title, address and port."""
    (line,) = app.intake.described()
    return line.rpartition(" ")[2]


def label(study: str) -> str:
    """What the case of a study is called."""
    return f"DICOM study {digest(study)[:8]}"


def answers(app: Running, study: str, images: int) -> list[Any]:
    """The images of a study's case, when that many are answered."""
    ended = threading.Event()
    for _ in range(600):
        found = case_labelled(app.services, label(study))
        if len(found.images) >= images:
            return list(found.images)
        ended.wait(0.1)
    raise AssertionError(f"only {len(found.images)} of {images}")


def test_who_may_associate(app: Running, node: str) -> None:
    with association(node, []) as allowed:
        assert allowed.send_c_echo().Status == STORED
    with association(node, [], sender="STRANGER") as stranger:
        assert stranger.is_rejected
    with association(node, [], called="ANOTHER") as mistaken:
        assert mistaken.is_rejected


def test_an_object_is_an_image_of_its_studys_case(app: Running, node: str) -> None:
    objects = [made(n, "1.2.10", syntax=s) for n, s in enumerate(("explicit", "rle", "deflated"))]
    assert send(node, *objects) == [STORED] * 3
    found = answers(app, "1.2.10", 3)
    assert case_labelled(app.services, label("1.2.10")).opened_by == USER
    asked = app.all.post(
        "/v1/predict",
        files=[("images", ("1.png", encoded(pixels_of(n)), "image/png")) for n in range(3)],
    ).json()["images"]
    assert [one.answer.predicted for one in found] == [one["class"] for one in asked]
    assert {one.source.sop for one in found} == {digest(one.SOPInstanceUID) for one in objects}


def test_the_same_object_again_is_success_and_adds_nothing(app: Running, node: str) -> None:
    one, other = made(4, "1.2.11"), made(5, "1.2.11")
    other.SOPInstanceUID = one.SOPInstanceUID
    other.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    assert send(node, one, one) == [STORED, STORED]
    assert len(answers(app, "1.2.11", 1)) == 1
    assert send(node, one, other) == [STORED, REFUSED]
    case = case_labelled(app.services, label("1.2.11"))
    for image in case.images:
        app.services.records.review("r", case.id, image.id, image.answer.predicted or "", "")
    app.services.records.sign("s", case.id, app.services.records.case(case.id).version)
    assert send(node, one) == [STORED]  # its sender may not have got the reply
    assert send(node, made(6, "1.2.11")) == [STORED]
    labels = [each.label for each in cases_of(app.services) if each.label.startswith(case.label)]
    assert labels == [case.label, f"{case.label} (2)"]


def test_every_frame_is_an_image(app: Running, node: str) -> None:
    import numpy as np

    from tests.helpers.dicom import make_dicom

    frames = np.stack([pixels_of(7)[:64, :64], pixels_of(8)[:64, :64]])
    one = read(make_dicom(frames, change=lambda d: setattr(d, "StudyInstanceUID", "1.2.12")).data)
    assert send(node, one, one) == [STORED, STORED]
    assert [each.source.frame for each in answers(app, "1.2.12", 2)] == [1, 2]
    frames = np.stack([pixels_of(8)[:64, :64], pixels_of(7)[:64, :64], pixels_of(8)[:64, :64]])
    more = read(make_dicom(frames, change=lambda d: setattr(d, "StudyInstanceUID", "1.2.12")).data)
    more.SOPInstanceUID = more.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    assert send(node, more) == [REFUSED]  # never again, not later


def test_a_sender_of_another_site_adds_to_that_sites_case(app: Running, node: str) -> None:
    assert send(node, made(9, "1.2.13")) == [STORED]
    assert send(node, made(9, "1.2.13"), sender=OTHER) == [STORED]
    found = [case for case in cases_of(app.services) if case.label == label("1.2.13")]
    assert [case.site for case in found] == ["north", "south"]


def test_what_is_no_picture_is_refused_and_recorded_nowhere(app: Running, node: str) -> None:
    before = len(cases_of(app.services))
    broken = made(10, "1.2.14")
    broken.PixelData = broken.PixelData[:1000]
    assert send(node, broken) == [REFUSED]
    services = app.app.state.services
    data = written(made(11, "1.2.14"))
    given = {data: MISMATCH, data[:200]: REFUSED, bytes(200_001): REFUSED}
    for each, status in given.items():
        assert asyncio.run(store(services, Faults(), "north", "1.2.3.4", each)).status == status
    assert len(cases_of(app.services)) == before


def test_a_message_without_end_is_not_held_in_memory(app: Running, node: str) -> None:
    large = made(12, "1.2.15")
    large.PixelData = bytes(4_000_000)
    assert send(node, large) == [None]
    assert send(node, made(12, "1.2.15")) == [STORED]


@pytest.mark.parametrize("command", [b"\0\0\0\0\xff\xff\xff\x7fleak", b"\0\0\0\1\2\0\0\0\x99\x99"])
def test_a_damaged_command_ends_its_association_only(
    app: Running,
    node: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: bytes,
) -> None:
    logged: list[str] = []
    told = SimpleNamespace(warning=lambda event, **_: logged.append(event))
    monkeypatch.setattr("bcd.serving.intake.node.log", told)
    with association(node, [made(12, "1.2.15")]) as broken:
        content = b"\x01\x03" + command  # of the first context; the last part of a command
        item = len(content).to_bytes(4, "big") + content
        broken.dul.socket.send(b"\x04\0" + len(item).to_bytes(4, "big") + item)
        broken.join(30)
        assert not broken.is_alive()
    assert send(node, made(12, "1.2.15")) == [STORED]
    assert logged == ["intake_failed"]
    shown = "".join(capfd.readouterr())
    assert "leak" not in shown and "Traceback" not in shown


def test_a_sender_comes_again_when_there_is_no_room_or_the_server_fails(
    app: Running, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (StorageFullError("The disk is full: nothing was recorded."), OSError(28, "full")):

        def fails(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(storing, "deliver", fails)
            assert send(node, made(13, "1.2.16")) == [BUSY]
    assert send(node, made(13, "1.2.16")) == [STORED]
    assert len(answers(app, "1.2.16", 1)) == 1


def test_a_sender_comes_again_after_a_fault_of_reading(
    app: Running, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(15, "1.2.18")
    with monkeypatch.context() as patch:
        patch.setattr(sandbox._Reader, "read", lambda *_: Fault("the decoder crashed"))
        assert send(node, one) == [BUSY]
    assert send(node, one) == [STORED]


def test_an_object_at_which_reading_always_ends_is_refused_at_last() -> None:
    now = 0.0
    faults, why = Faults(lambda: now), Fault("cannot be decoded (the decoder crashed)")
    assert [faults.reply("a", why).status for _ in range(5)] == [BUSY] * 5  # in the same moment
    now = 599.0
    assert faults.reply("a", why).status == BUSY
    now = 600.0
    assert [faults.reply(sop, why).status for sop in "ab"] == [REFUSED, BUSY]
    assert faults.reply("b", "is no image").status == REFUSED


@pytest.mark.filterwarnings("ignore:Invalid value")  # the sender's
def test_no_attribute_gets_into_logs_metrics_or_records(
    app: Running, node: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    data, values = identified(written(made(14, "1.2.17.1")))
    named = read(data)
    broken = read(data)
    broken.SOPInstanceUID = values[0]  # no UID at all
    broken.PixelData = b"short"
    assert send(node, named) == [STORED]
    assert STORED not in send(node, broken)
    answers(app, "1.2.17.1", 1)
    own = [record.getMessage() for record in caplog.records if "pynetdicom" not in record.name]
    shown = "".join(own + list(capfd.readouterr())) + app.client.get("/metrics").text
    held = b"".join(path.read_bytes() for path in app.folder.iterdir() if path.is_file())
    searched = [str(value) for value in values if len(str(value)) > 5]
    assert len(searched) > 50
    assert [value for value in searched if value in shown or value.encode() in held] == []
    assert 'bcd_intake_files_total{outcome="stored",source="dicom"}' in shown
    assert 'bcd_intake_ready{source="dicom"} 1.0' in shown


def test_what_is_refused_at_the_start(tmp_path: Path, node: str) -> None:
    cfg = serve_config(tmp_path, "dicom.port=0")
    open_cfg = replace(cfg, dicom=replace(cfg.dicom, host="0.0.0.0"))
    with pytest.raises(ConfigError, match=r"dicom.allow=\[<AE titles that may>\]"):
        open_intake(open_cfg)
    with pytest.raises(ConfigError, match="at most 16"):
        open_intake(replace(cfg, dicom=replace(cfg.dicom, allow=["A" * 17])))
    with pytest.raises(ConfigError, match=r"dicom.ae_title="):
        open_intake(replace(cfg, dicom=replace(cfg.dicom, ae_title="A" * 17)))
    used = int(node.rpartition(":")[2])
    with pytest.raises(BcdError, match="another address or port"):
        open_intake(replace(cfg, dicom=replace(cfg.dicom, port=used)))
