"""When files of a watch folder are taken, what becomes of them, and what is never lost or doubled.

The watcher has a clock of its own, in which `scanner.stable_seconds` is 2.
"""

from __future__ import annotations

import asyncio
import pkgutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcd.data.synthetic.smears import draw_smear
from bcd.serving.answers import ImageAnswer
from bcd.serving.intake.watch import USER
from bcd.serving.jobs.leases import Job
from bcd.serving.jobs.worker import Worker
from bcd.serving.records.cases import OPEN, SIGNED
from bcd.serving.records.store import open_records
from tests.helpers.dicom import make_dicom
from tests.serving.intake.following import (
    MOST,
    Following,
    answered,
    case_labelled,
    cases_of,
    files_in,
)
from tests.serving.making import smear
from tests.serving.running import Running, running


def test_a_complete_file_is_answered_and_moved(app: Running, folder: Following) -> None:
    folder.put("S-118/1.png", smear(1))
    folder.put("S-118/tray 2/2.png", smear(2))
    folder.until_moved("done/S-118/1.png", "done/S-118/tray 2/2.png")
    case = case_labelled(app.services, "S-118")
    assert case.opened_by == USER and case.status == OPEN
    assert answered(app.services, "S-118").keys() == {"1.png", "2.png"}
    assert all(answered(app.services, "S-118").values())
    assert folder.counts == {"done": 2}
    assert folder.watcher.waiting == 0


def test_a_file_that_changes_is_not_taken(app: Running, folder: Following) -> None:
    data = smear(3)
    for length in range(0, len(data), 500):
        path = folder.put("growing/1.png", data[:length])
        folder.step(1.0)
    folder.put("growing/2.png.part", data)
    assert all(case.label != "growing" for case in cases_of(app.services))
    path.write_bytes(data)
    folder.until_moved("done/growing/1.png")
    assert len(answered(app.services, "growing")) == 1
    assert files_in(folder.folder) == {"done/growing/1.png", "growing/2.png.part"}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "DICOM"])
def test_half_a_file_whose_writer_pauses_is_not_answered(
    app: Running, folder: Following, form: str
) -> None:
    label = f"paused {form}"
    if form == "DICOM":  # whose decoder makes up the rest
        data = make_dicom(draw_smear("Benign", slide=4, index=4, size=96), "jpeg-ls").data
    else:
        data = smear(4, form=form)
    path = folder.put(f"{label}/1.{form.lower()}", data[: len(data) // 2])
    for _ in range(100):
        folder.step()
    assert all(case.label != label for case in cases_of(app.services))
    path.write_bytes(data)
    folder.until_moved(f"done/{label}/{path.name}")
    (image,) = case_labelled(app.services, label).images
    assert image.answer.predicted is not None


def test_what_never_can_be_read_waits_for_a_review(app: Running, folder: Following) -> None:
    folder.put("broken/1.png", smear(5)[:400])
    folder.until_moved("failed/broken/1.png")
    (image,) = case_labelled(app.services, "broken").images
    assert image.answer.predicted is None and image.waits
    assert "could not be read" in (folder.folder / "failed/broken/1.png.txt").read_text()
    assert folder.now > 60 * 2.0  # not before the writer had its time


def test_every_frame_of_a_file_is_waited_for_after_a_restart(
    app: Running, folder: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refuses = Worker._answer, threading.Event()

    async def answer(worker: Worker, job: Job) -> ImageAnswer | None:
        if job.image.source is not None and job.image.source.frame == 2:
            if not refuses.is_set():
                return None  # it waits
            job = replace(job, refused="was refused here")
        return await real(worker, job)

    monkeypatch.setattr(Worker, "_answer", answer)
    frames = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (200, 0)])
    folder.put("frames/1.dcm", make_dicom(frames).data)
    folder.until(lambda: any(case.label == "frames" for case in cases_of(app.services)))
    folder.until(lambda: len(answered(app.services, "frames")) == 1)
    after = Following(app.app.state.services, folder.folder)  # a restarted server's
    for _ in range(10):
        after.step()
    assert files_in(folder.folder) == {"frames/1.dcm"}
    refuses.set()
    after.until_empty()
    assert files_in(folder.folder) == {f"failed/frames/1.dcm{end}" for end in ("", ".txt")}
    assert "was refused here" in (folder.folder / "failed/frames/1.dcm.txt").read_text()


def test_the_same_bytes_are_one_image(app: Running, folder: Following) -> None:
    folder.put("twice/1.png", smear(6))
    folder.put("twice/copy.png", smear(6))
    folder.until_moved("done/twice/1.png", "done/twice/copy.png")
    folder.put("twice/1.png", smear(6))
    folder.until_moved("done/twice/1 (2).png")
    assert len(case_labelled(app.services, "twice").images) == 1


def test_what_is_no_image_of_a_case_is_failed(app: Running, folder: Following) -> None:
    outside = folder.folder.with_name(f"{folder.folder.name} outside")
    outside.write_bytes(smear(7))
    folder.put("loose.png", smear(7))
    folder.put("odd/notes.docx", b"notes")
    folder.put("odd/large.png", bytes(200_001))
    (folder.folder / "odd" / "link.png").symlink_to(outside)
    names = ("loose.png", "odd/notes.docx", "odd/large.png", "odd/link.png")
    folder.until_empty()
    reasons = [(folder.folder / f"failed/{name}.txt").read_text() for name in names]
    assert [any(word in reason for reason in reasons) for word in
            ("subfolder", "type", "0.2 MB", "regular")] == [True] * 4  # fmt: skip
    assert files_in(folder.folder) == {f"failed/{n}{end}" for n in names for end in ("", ".txt")}
    assert outside.read_bytes() == smear(7)
    assert all(case.label != "odd" for case in cases_of(app.services))


def test_a_case_that_takes_no_more_is_followed_by_another(app: Running, folder: Following) -> None:
    folder.put("long/1.png", smear(8))
    folder.until_moved("done/long/1.png")
    first = case_labelled(app.services, "long")
    for image in first.images:
        app.services.records.review("r", first.id, image.id, image.answer.predicted or "", "")
    app.services.records.sign("s", first.id, app.services.records.case(first.id).version)
    assert app.services.records.case(first.id).status == SIGNED
    folder.put("long/again.png", smear(8))  # answered before the signature
    for number in range(9, 9 + MOST + 1):
        folder.put(f"long/{number}.png", smear(number))
    folder.until_empty()
    counts = {case.label: len(case.images) for case in cases_of(app.services)}
    assert (counts["long"], counts["long (2)"], counts["long (3)"]) == (1, MOST, 1)
    assert files_in(folder.folder / "failed") == set()


def test_an_erased_case_leaves_nothing_of_the_folder(app: Running, folder: Following) -> None:
    folder.put("Erased/1.png", smear(20))
    folder.until_moved("done/Erased/1.png")
    first = case_labelled(app.services, "Erased")
    app.services.records.erase("a", first.id, "asked for")
    folder.put("Erased/2.png", smear(21))
    folder.until_moved("done/Erased/2.png")
    assert [len(case.images) for case in cases_of(app.services) if case.label == "Erased"] == [1]


def test_one_of_several_cases_of_a_folder_that_is_erased_keeps_no_images_out(
    app: Running, folder: Following
) -> None:
    for number in range(2 * MOST):
        folder.put(f"several/{number}.png", smear(40 + number))
    folder.until_empty()
    app.services.records.erase("a", case_labelled(app.services, "several").id, "asked for")
    folder.put("several/new.png", smear(99))
    folder.until_moved("done/several/new.png")
    assert len(case_labelled(app.services, "several (2)").images) == MOST
    assert len(case_labelled(app.services, "several (3)").images) == 1


def test_a_file_that_grows_after_it_was_taken_is_another_image(
    app: Running, folder: Following
) -> None:
    path = folder.put("grown/1.png", smear(22))
    for _ in range(4):
        folder.step()
    path.write_bytes(smear(22) + b"more")
    folder.until_moved("done/grown/1.png")
    assert len(case_labelled(app.services, "grown").images) == 2
    assert (folder.folder / "done/grown/1.png").read_bytes() == smear(22) + b"more"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["watch.files.read", "watch.deliver", "watch.files.move"])
def test_a_server_that_ends_at_any_step_neither_loses_nor_doubles(
    app: Running, folder: Following, monkeypatch: pytest.MonkeyPatch, what: str, when: str
) -> None:
    class Killed(BaseException):
        """No handler of errors sees a kill."""

    place = f"bcd.serving.intake.{what}"
    real = pkgutil.resolve_name(place)

    def killing(*given: object) -> object:
        if when == "after":
            real(*given)
        raise Killed

    label = f"killed {when} {what}"
    folder.put(f"{label}/1.png", smear(30))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(place, killing)
        folder.until(lambda: False)
    after = Following(app.app.state.services, folder.folder)
    after.until_empty()
    assert len(case_labelled(app.services, label).images) == 1
    assert files_in(folder.folder) == {f"done/{label}/1.png"}


def test_several_servers_may_watch_one_folder(app: Running, folder: Following) -> None:
    others = [folder, *(Following(app.app.state.services, folder.folder) for _ in range(2))]
    for number in range(MOST):
        folder.put(f"shared/{number}.png", smear(40 + number))

    async def together() -> None:
        await asyncio.gather(*(each.watcher.step() for each in others))

    def step_all() -> bool:
        for each in others:
            each.now += 1.0
        asyncio.run(together())
        return not files_in(folder.folder / "shared")

    folder.until(step_all)
    assert len(case_labelled(app.services, "shared").images) == MOST
    assert len(files_in(folder.folder / "done")) == MOST
    assert sum(each.counts["done"] for each in others) == MOST


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_several_servers_may_watch_one_folder_with_one_database(url: str, tmp_path: Path) -> None:
    scans, images, cases = tmp_path / "scans", 24, 3
    keys = (f"records='{url}'", "jobs.poll_seconds=0.05")
    with running(tmp_path / "app", *keys) as first:
        services = first.app.state.services
        with open_records(url, services.cfg.images) as records:
            both = [
                Following(each, scans) for each in (services, replace(services, records=records))
            ]
            for number in range(images):
                both[0].put(f"S-{number % cases}/{number}.png", smear(number))
            threads = [threading.Thread(target=each.until_empty) for each in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        found = {case.label: len(case.images) for case in cases_of(first.services)}
    assert found == {f"S-{number}": images // cases for number in range(cases)}
    assert len(files_in(scans / "done")) == images == len(files_in(scans))


def test_empty_folders_go_after_an_hour(folder: Following) -> None:
    (folder.folder / "over" / "inner").mkdir(parents=True)
    folder.step()
    folder.step(3590.0)
    assert (folder.folder / "over" / "inner").is_dir()
    folder.step(20.0)
    folder.step()
    folder.step(3600.0)
    assert list(folder.folder.iterdir()) == []
