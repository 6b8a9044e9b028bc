"""Kills a process that predicts into a folder at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MOMENTS = (
    "in a part",
    "before the manifest",
    "while images are read",
    "before a part is named",
    "after a part",
)


def kill_at(moment: str) -> None:
    """Has this process killed around the second part that it writes."""
    from bcd.data.items import Wanted
    from bcd.inference.batch import folder
    from bcd.inference.batch.manifest import Manifest

    replacing, write, read = folder.replacing, Manifest.write, Wanted.read  # type: ignore[attr-defined]
    counts = {"parts": 0, "manifests": 0, "images": 0}

    def reached(kind: str, number: int) -> bool:
        counts[kind] += 1
        return counts[kind] == number

    @contextlib.contextmanager
    def replacing_or_dying(file: Path, durable: bool = False) -> Iterator[IO[bytes]]:
        second = reached("parts", 2)
        with replacing(file, durable) as stream:
            yield stream
            stream.flush()
            if second and moment == "in a part":
                stream.truncate(stream.tell() // 2)
                _die()
            if second and moment == "before a part is named":
                _die()

    def write_or_die(self: Manifest, file: Path) -> None:
        third = reached("manifests", 3)  # the first is before all parts
        if third and moment == "before the manifest":
            _die()
        write(self, file)
        if third and moment == "after a part":
            _die()

    def read_or_die(*arguments: Any) -> Any:
        if reached("images", 8) and moment == "while images are read":
            _die()
        return read(*arguments)

    folder.replacing = replacing_or_dying  # type: ignore[attr-defined]
    Manifest.write = write_or_die  # type: ignore[method-assign]
    Wanted.read = read_or_die  # type: ignore[method-assign, assignment]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
