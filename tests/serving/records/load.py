"""Processes that write records until they are killed, for tests.

Run as `python -m tests.serving.records.load URL`. For each line `start` on its input it forks two
processes. These acknowledge what is recorded with a line of JSON each. For a line `kill` it kills
them, and says `{"dead": true}`. Importing everything once makes many starts cheap.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from bcd.serving.records.contents import Contents
from bcd.serving.records.database import sqlite_file
from bcd.serving.records.store import Records
from bcd.serving.records.upgrade import prepare
from tests.serving.making import IDENTITY
from tests.serving.records.making import CLASSES, content, images, images_config

_PROCESSES = 2


def main(url: str) -> None:
    """Starts and kills processes until its input ends."""
    prepare(url).dispose()  # imports everything before the first fork
    running: list[int] = []
    for line in sys.stdin:
        if line.strip() == "start":
            running = [_fork(url, number) for number in range(_PROCESSES)]
        else:
            for process in running:
                os.kill(process, signal.SIGKILL)
            for process in running:
                os.waitpid(process, 0)
            say(dead=True)


def say(**facts: object) -> None:
    """Writes a line, whole or not at all."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def _fork(url: str, number: int) -> int:
    process = os.fork()
    if process == 0:
        try:
            _write(url, number)
        except BaseException as error:
            say(error=repr(error))
        os._exit(1)
    return process


def _write(url: str, number: int) -> None:
    engine = prepare(url)
    records = Records(engine, sqlite_file(url), Contents(engine, images_config()))
    case_id = records.open_case("anna", f"label {number}", IDENTITY, 1)
    say(case=case_id, label=f"label {number}")
    work: list[Callable[[], None]] = [lambda: _images(records, case_id)] * 2
    work += [lambda: _events(records, number)]
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _images(records: Records, case_id: str) -> None:
    while True:
        ids = records.add_images("anna", case_id, IDENTITY, images(2, referred=1))
        for number, image_id in enumerate(ids):
            say(case=case_id, image=image_id, number=number)
        records.review("berta", case_id, ids[0], CLASSES[1], f"remark on {ids[0]}")
        say(case=case_id, image=ids[0], remark=f"remark on {ids[0]}")


def _events(records: Records, number: int) -> None:
    count = 0
    while True:
        records.event("carl", "login", {"process": number, "count": count})
        say(head=records.head())
        count += 1


def missing(records: Records, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that say something that is not in the records; heads are for `verify`."""
    about = [line for line in lines if "case" in line]
    images = {
        image.id: image
        for case_id in {line["case"] for line in about}
        for image in records.case(case_id).images
    }

    def holds(line: dict[str, Any]) -> bool:
        if "image" not in line:
            return bool(records.case(line["case"]).label == line["label"])
        if "remark" in line:
            remarks = [review.remark for review in images[line["image"]].reviews]
            return line["remark"] in remarks
        number: int = line["number"]
        return records.image(line["case"], line["image"]) == content(number)

    return [line for line in about if not holds(line)]


if __name__ == "__main__":
    main(sys.argv[1])
