"""Scanners go on while the server is restarted and killed: each image is answered once."""

from __future__ import annotations

import io
import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from bcd.serving.records.replay import ANSWERED
from bcd.serving.records.verify import verify
from tests.helpers.dicom import make_dicom
from tests.serving.intake.following import files_in
from tests.serving.intake.sending import association, read
from tests.serving.process import Server, serving

IMAGES, CASES = 500, 5  # of the folder
OBJECTS, STUDIES = 120, 3
STABLE = 0.3  # seconds
SIDE = 32
DEADLINE = 240.0  # seconds for what takes a few on an idle machine
IDLE = 25.0  # seconds, fewer than a connection may be idle
STOPS = (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)


def pixels(number: int) -> np.ndarray:
    """A picture that no other number has, coloured like a smear."""
    drawn = np.random.default_rng(number).integers(0, 60, (SIDE, SIDE, 3), np.uint8)
    return drawn + np.array([180, 140, 160], np.uint8)


def png(number: int) -> bytes:
    """The same as a file."""
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, number: int) -> None:
    """Writes one image as scanners do: whole, in parts, with another name first, or twice."""
    data, case = png(number), folder / f"S-{number % CASES}"
    case.mkdir(exist_ok=True)
    path, manner = case / f"{number}.png", number // CASES % 10
    if manner == 0:
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
            stream.flush()
            # Longer than a complete file needs, for a few.
            time.sleep(2 * STABLE if number % 100 < CASES else 0.01)
            stream.write(data[len(data) // 2 :])
    elif manner == 1:
        path.with_suffix(".png.part").write_bytes(data)
        path.with_suffix(".png.part").rename(path)
    elif manner == 2:
        path.write_bytes(data)
        (case / f"{number} copy.png").write_bytes(data)
    elif manner == 3:
        (case / f"{number} new.png").write_bytes(data)
        with suppress(FileNotFoundError):  # already taken
            (case / f"{number} new.png").rename(path)
    else:
        path.write_bytes(data)


def write_all(folder: Path) -> None:
    """Writes all images."""
    for number in range(IMAGES):
        write(folder, number)


def objects() -> list[Dataset]:
    """All objects, of which each fourth is there twice."""
    found = []
    for number in range(OBJECTS):

        def change(dataset: Dataset, number: int = number) -> None:
            dataset.StudyInstanceUID = f"1.2.{number % STUDIES + 1}"
            dataset.SOPInstanceUID = f"1.2.9.{number + 1}"

        one = read(make_dicom(pixels(IMAGES + number), change=change).data)
        found += [one] * (2 if number % 4 == 0 else 1)
    return found


def send_all(node: str, waiting: list[Dataset], ended: threading.Event) -> None:
    """Sends objects until each was answered with success."""
    while waiting and not ended.is_set():
        with association(node, waiting) as made:
            while waiting and made.is_established:
                if made.send_c_store(waiting[0]).get("Status") != 0:
                    break  # no reply, or no room: it is sent again
                waiting.pop(0)
        ended.wait(0.1)


def until(reached: Callable[[], bool]) -> None:
    """Waits."""
    last = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < last
        time.sleep(0.05)


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def answered(records: Path) -> list[tuple[str, str]]:
    """Case and sha256 of each answered image."""
    connection = sqlite3.connect(f"file:{records}?mode=ro", uri=True)
    query = "SELECT case_id, payload FROM records WHERE kind = ?"
    rows = connection.execute(query, [ANSWERED]).fetchall()
    found = [(case, json.loads(payload)["answer"]["sha256"]) for case, payload in rows]
    connection.close()
    return found


def stop(server: Server, how: signal.Signals) -> None:
    """Ends a server."""
    server.process.send_signal(how)
    assert server.process.wait(60) == (-how if how == signal.SIGKILL else 0)


def run(folder: Path, keys: Sequence[str], marks: Sequence[Callable[[], bool]]) -> None:
    """Starts a server for each mark, ends it there, and starts a last one."""
    for how, mark in zip(STOPS, marks, strict=True):
        with serving(folder, 0.0, *keys) as server:
            until(mark)
            stop(server, how)


def test_each_image_is_answered_once(tmp_path: Path) -> None:
    watch, folder = tmp_path / "scans", tmp_path / "records"
    watch.mkdir()
    port, ended = free_port(), threading.Event()
    keys = (
        f"watch={watch}", f"scanner.stable_seconds={STABLE}", f"dicom.port={port}",
        "dicom.allow=[SCANNER1]", "jobs.poll_seconds=0.05", "jobs.lease_seconds=1",
    )  # fmt: skip
    waiting = objects()
    threads = [
        threading.Thread(target=write_all, args=(watch,)),
        threading.Thread(target=send_all, args=(f"BCD@127.0.0.1:{port}", waiting, ended)),
    ]
    with ExitStack() as at_end:
        at_end.callback(ended.set)
        for thread in threads:
            thread.start()
        done = watch / "done"
        marks = [
            lambda share=share: len(files_in(done)) >= share * IMAGES for share in (0.1, 0.4, 0.7)
        ]
        run(folder, keys, marks)
        with serving(folder, 0.0, *keys) as server:
            for thread in threads:
                thread.join(DEADLINE)
            until(lambda: not waiting and not files_in(watch) - moved(watch))
            until(lambda: len(answered(folder / "records.sqlite")) >= IMAGES + OBJECTS)
            idle = socket.create_connection(("127.0.0.1", port))  # does not keep it
            begun = time.monotonic()
            stop(server, signal.SIGTERM)
            assert time.monotonic() - begun < IDLE
            idle.close()
    found = answered(folder / "records.sqlite")
    assert len(found) == len({sha256 for _, sha256 in found}) == IMAGES + OBJECTS
    assert len({case for case, _ in found}) == CASES + STUDIES
    assert files_in(watch / "failed") == set()
    shown = [name for name in files_in(watch / "done") if "/.bcd-" not in name]  # of the kill
    contents = {(watch / "done" / name).read_bytes() for name in shown}
    assert contents == {png(number) for number in range(IMAGES)}
    assert verify(f"sqlite:///{folder / 'records.sqlite'}").problems == ()
    assert "S-1" not in server.log.read_text() and "1.2.9." not in server.log.read_text()


def moved(watch: Path) -> set[str]:
    """Files that the server is done with."""
    return {name for name in files_in(watch) if name.startswith(("done/", "failed/"))}
