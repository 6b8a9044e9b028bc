"""Reads untrusted images in separate processes.

A decoder may crash, hang or request any amount of memory. That ends only the process that reads
this image, and the image is rejected with a reason. Parent and reader communicate through pipes
(`bcd.data.reader`): the parent sends a path or encoded bytes, the reader requests room for a number
of pixels, and after the answer it sends the pixels.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import astuple, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bcd.config.environment import core_count
from bcd.data.dicom.header import Header
from bcd.data.files import room_for
from bcd.data.input_views import packed_shape
from bcd.data.items import Answer, Fault, Item, Wanted
from bcd.data.opening import PIXELS
from bcd.data.reader import DECODING_SECONDS, ask, hear, send
from bcd.data.reader_process import start_reader

Task = TypeVar("Task")
Found = TypeVar("Found")

_WAITING_SECONDS = 20.0  # for an image on a busy machine, or if processor time cannot be limited
_STARTING_SECONDS = 60.0  # for starting a process, and for a file on a slow disk
_MOST = 8  # readers
_FILES_A_READER = 64  # fewer files do not justify another process
_ENCODED = 64 << 20  # bytes of items that wait for a reader
_READ = 64 << 20  # bytes of pixels that were read ahead
_SIGXCPU = getattr(signal, "SIGXCPU", 0)  # ends a process that has exceeded its time


def read_all(
    items: Iterable[Path | Item], wanted: Wanted, workers: int | None, ahead: int = 0
) -> Iterator[tuple[str, Answer]]:
    """Yields the name and the content of each image, in order.

    Args:
        items: The images. They are taken from the iterator as they are read, so that their number
            need not be known, and only few of them are held.
        wanted: The requested format.
        workers: Number of reading processes; None for one per core, at most eight, fewer for few
            files; 0 reads in this process, which a crash of a decoder would end.
        ahead: Number of images to read before they are asked for, within bounds of memory.

    Raises:
        Exception: What the iterator of the images raised, after all images before.
    """
    failed: list[Exception] = []
    given = _until_failure(items, failed)
    if workers == 0:
        yield from ((item.name, wanted.read(item)) for item in given)
        _raise_first(failed)
        return
    readers = Readers(wanted, workers)
    ahead = min(ahead, _READ // math.prod(packed_shape(wanted.inputs)))
    waiting: deque[tuple[Item, Future[Answer]]] = deque()
    held = 0
    try:
        for item in given:
            waiting.append((item, readers.submit(item)))
            held += len(item.data or b"")
            while len(waiting) > max(4 * readers.count, ahead) or held > _ENCODED:
                done, answer = waiting.popleft()
                held -= len(done.data or b"")
                yield done.name, answer.result()
        while waiting:
            done, answer = waiting.popleft()
            yield done.name, answer.result()
    finally:
        readers.close()
    _raise_first(failed)


def _until_failure(items: Iterable[Path | Item], failed: list[Exception]) -> Iterator[Item]:
    """The items before the iterator fails, which is noted."""
    try:
        yield from map(Item.of, items)
    except Exception as error:
        failed.append(error)


def _raise_first(failed: list[Exception]) -> None:
    for error in failed:
        raise error


class Readers:
    """Reading processes, each with a thread that waits for it; more are started as files come.

    Args:
        wanted: The requested format.
        workers: Number of processes, as in `read_all`.
        seconds: Until a process that runs has to answer about an image; None for what files on a
            slow disk need.
    """

    def __init__(self, wanted: Wanted, workers: int | None, seconds: float | None = None) -> None:
        self._wanted, self._seconds = wanted, seconds
        self._most = workers or min(_MOST, core_count())
        self._files_each = 1 if workers else _FILES_A_READER
        self._queue: SimpleQueue[tuple[Item, Future[Any]] | None] = SimpleQueue()
        self._readers: list[_Reader] = []
        self._busy: set[_Reader] = set()
        self._submitted = 0
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def count(self) -> int:
        """Number of processes so far."""
        return len(self._readers)

    @property
    def busy(self) -> int:
        """Number of images that are being read."""
        return len(self._busy)

    @property
    def free(self) -> bool:
        """Whether another image would be read at once."""
        return self.busy < self._most

    def submit(self, item: Item) -> Future[Answer]:
        """Has an image read, unless that is cancelled; they are read in this order."""
        answer: Future[Answer] = Future()
        self._submit(item, answer)
        return answer

    def header(self, item: Item, keep: Sequence[str] = ()) -> Future[Header | str]:
        """Has the header of a DICOM file read, with some attributes; or why it cannot be read."""
        answer: Future[Header | str] = Future()
        self._submit(replace(item, keep=tuple(keep)), answer)
        return answer

    def _submit(self, item: Item, answer: Future[Any]) -> None:
        if item.reason:
            answer.set_result(item.reason)
            return
        if self._submitted >= self.count * self._files_each and self.count < self._most:
            self._readers.append(_Reader(self._wanted, self._seconds))
            threading.Thread(target=self._run, args=(self._readers[-1],), daemon=True).start()
        self._submitted += 1
        self._queue.put((item, answer))

    def _run(self, reader: _Reader) -> None:
        while (task := self._queue.get()) is not None:
            item, answer = task
            if not answer.set_running_or_notify_cancel():
                continue
            self._busy.add(reader)
            try:
                found = reader.read(item)
            except BaseException as error:
                self._busy.discard(reader)
                answer.set_exception(error)
            else:
                self._busy.discard(reader)
                answer.set_result(found)

    def _watch(self) -> None:
        """Ends processes that take too long; one thread, as a timer for each file would be one."""
        while not self._closed.wait(0.25):
            for reader in list(self._readers):
                reader.end_if_late()

    def close(self) -> None:
        """Ends all processes; images that were not read yet are not read."""
        self._closed.set()
        with contextlib.suppress(Empty):
            while True:
                if (task := self._queue.get_nowait()) is not None:
                    task[1].cancel()
        for reader in self._readers:
            self._queue.put(None)
            reader.close()


class ReadingProcess(ABC, Generic[Task, Found]):
    """One reading process, restarted whenever it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def read(self, task: Task) -> Found | str:
        """What is found, or a reason; tries a second time if the process ended unexpectedly."""
        answer = self._attempt(task)
        if answer is None and not self._closed:
            answer = self._attempt(task)
        return Fault("cannot be decoded (the decoder crashed)") if answer is None else answer

    @abstractmethod
    def _attempt(self, task: Task) -> Found | str | None:
        """The answer of the process; None if it ends without one."""

    def close(self) -> None:
        """Ends the process permanently."""
        self._closed = True
        self._stop()

    def _stop(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        return process.wait()


class _Reader(ReadingProcess[Item, NDArray[np.uint8] | Header]):
    """A process that reads images."""

    def __init__(self, wanted: Wanted, seconds: float | None) -> None:
        super().__init__()
        self._wanted, self._seconds = wanted, seconds
        self._slow = False
        self._deadline: float | None = None

    def _attempt(self, task: Item) -> Answer | Header | None:
        """The answer of the process; None if it ends without one."""
        answer: Answer | Header | None = None
        self._slow = False
        with room_for(task.path), contextlib.suppress(OSError, ValueError):
            started = self._process is not None
            self._allow(self._seconds if started and self._seconds else _STARTING_SECONDS)
            process = self._process or self._begin()
            assert process.stdin is not None
            assert process.stdout is not None
            ask(process.stdin, task)
            word, value = hear(process.stdout)
            if word == "room":
                self._deadline = None
                with PIXELS.taking(int(value)):
                    self._allow(self._seconds or _WAITING_SECONDS)
                    send(process.stdin, '"go"')
                    answer = self._answer(process.stdout, *hear(process.stdout), task)
            else:
                answer = self._answer(process.stdout, word, value, task)
        self._deadline = None
        if answer is None and ((end := self._stop()) == -_SIGXCPU or self._slow):
            seconds = self._seconds if self._slow and self._seconds else DECODING_SECONDS
            why = f"cannot be decoded (takes longer than {seconds:g} s)"
            return why if end == -_SIGXCPU else Fault(why)  # processor time is the image's own
        return answer

    def _allow(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def _answer(
        self, stream: IO[bytes], word: str, said: str, task: Item
    ) -> Answer | Header | None:
        """What the process says, and the pixels that follow if they have a possible shape."""
        if word != "pixels":
            return Header.from_line(said) if word == "header" and task.keep is not None else said
        shape = tuple(map(int, json.loads(said)))
        expected = packed_shape(self._wanted.inputs)
        if not (shape == expected if task.picture is None else task.picture.fits(shape)):
            return None
        pixels = np.empty(shape, np.uint8)
        view = pixels.data.cast("B")
        got = 0
        while part := stream.readinto(view[got:]):  # type: ignore[attr-defined]
            got += part
        return pixels if got == len(view) else None

    def _begin(self) -> subprocess.Popen[bytes]:
        self._process = start_reader()
        if self._closed:
            self._process.kill()
        assert self._process.stdin is not None
        inputs = [astuple(view) for view in self._wanted.inputs]
        match = self._wanted.match
        plain = None if match is None else match.to_plain()
        send(self._process.stdin, json.dumps([inputs, self._wanted.mask, plain]))
        return self._process

    def end_if_late(self) -> None:
        """Ends the process if it has taken too long; called from another thread."""
        deadline, process = self._deadline, self._process
        if process is not None and deadline is not None and time.monotonic() > deadline:
            self._slow = True
            process.kill()
