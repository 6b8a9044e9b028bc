"""The reading process of `bcd.data.sandbox`, and what it and its parent tell each other."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import IO

from bcd.config.input_views import InputView
from bcd.data.dicom.header import Header
from bcd.data.files import Gate
from bcd.data.items import Item, Wanted, read_item_header
from bcd.data.matching import Match
from bcd.data.shown import Picture

# Of processor time, so that a busy machine rejects nothing; MAX_PIXELS take two to three.
DECODING_SECONDS = 4
_MEMORY = 850 << 20  # bytes that a reader may use in addition to what it starts with
_SMALL = 1 << 20  # pixels that are decoded without asking: they hardly count


def ask(stream: IO[bytes], item: Item) -> None:
    """Sends an image to read: a path, or a number of bytes and then the bytes.

    In front of either is what is wanted of it: a picture or null, the number of a frame or null,
    keywords if it is the header, and how it is matched or null.
    """
    picture = None if item.picture is None else astuple(item.picture)
    match = None if item.match is None else item.match.to_plain()
    wanted = [picture, item.frame, item.keep, match]
    if item.data is None:
        send(stream, json.dumps([*wanted, str(item.path)]))
        return
    stream.write(json.dumps([*wanted, len(item.data)]).encode("ascii") + b"\n")
    stream.write(item.data)
    stream.flush()


def _received(line: bytes, stream: IO[bytes]) -> Item:
    """What `ask` sent; the rest of it is read from the stream."""
    shown, frame, keep, match, what = json.loads(line)
    wanted = Item(
        "",
        picture=None if shown is None else Picture(*shown),
        frame=frame,
        keep=None if keep is None else tuple(keep),
        match=Match.from_plain(match),
    )
    if isinstance(what, str):
        return replace(wanted, name=what, path=Path(what))
    return replace(wanted, data=stream.read(what))


def send(stream: IO[bytes], line: str) -> None:
    """Sends a line of ASCII."""
    stream.write(line.encode("ascii") + b"\n")
    stream.flush()


def hear(stream: IO[bytes]) -> tuple[str, str]:
    """A word and its value; raises ValueError if the other side has ended."""
    word, value = json.loads(stream.readline())
    return str(word), str(value)


class _Asking(Gate):
    """The gate of a reader: asks the parent, which knows what the other readers hold."""

    def __init__(self, questions: IO[bytes], answers: IO[bytes]) -> None:
        super().__init__(0)
        self._questions = questions
        self._answers = answers

    @contextlib.contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        if amount > _SMALL:
            send(self._questions, json.dumps(("room", amount)))
            if not self._answers.readline():
                raise SystemExit
        yield


def serve() -> None:
    """Runs a reader until its parent closes the pipe; what is wanted comes first."""
    answers, questions = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print must not reach the pipe
    first = answers.readline()
    if not first:
        return
    inputs, mask, match = json.loads(first)
    bound_memory(_MEMORY)
    wanted = Wanted(tuple(InputView(*one) for one in inputs), mask, Match.from_plain(match))
    gate = _Asking(questions, answers)
    for line in answers:
        bound_time(DECODING_SECONDS)  # for opening too: a header may be endless
        item = _received(line, answers)
        answer = wanted.read(item, gate) if item.keep is None else read_item_header(item)
        if isinstance(answer, str):
            send(questions, json.dumps(("reason", answer)))
        elif isinstance(answer, Header):
            send(questions, json.dumps(("header", answer.to_line())))
        else:
            questions.write(json.dumps(("pixels", json.dumps(answer.shape))).encode() + b"\n")
            questions.write(answer.data.cast("B"))
            questions.flush()


def bound_time(seconds: int) -> None:
    """Grants this process some more seconds of processor time, if the system supports limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soon = math.ceil(time.process_time()) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soon, hard))


def bound_memory(more: int) -> None:
    """Limits this process to some more bytes, no core dump, and no files, if the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
