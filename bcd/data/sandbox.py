"""Reads untrusted files in separate processes.

A decoder may crash, hang or request any amount of memory. That ends only the process that reads
this file, and the file is rejected with a reason. Parent and reader communicate through pipes: the
parent sends a path, the reader requests room for a number of pixels, and after the answer it sends
the pixels.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.data.files import Gate, ImageError, room_for
from bcd.data.input_views import cut_rois, make_views, pack, packed_shape, prepare_sides
from bcd.data.matching import Match
from bcd.data.opening import PIXELS
from bcd.data.reading import read_image

# Of processor time, so that a busy machine rejects nothing; MAX_PIXELS take two to three.
_DECODING_SECONDS = 4
_WAITING_SECONDS = 20.0  # for an image on a busy machine, or if processor time cannot be limited
_STARTING_SECONDS = 60.0  # for starting a process, and for a file on a slow disk
_MEMORY = 850 << 20  # bytes that a reader may use in addition to what it starts with
_MOST = 8  # readers
_FILES_A_READER = 64  # fewer files do not justify another process

_SIGXCPU = getattr(signal, "SIGXCPU", 0)  # ends a process that has exceeded its time

Answer = NDArray[np.uint8] | str  # pixels as `pack` returns them, or why there are none


@dataclass(frozen=True)
class Wanted:
    """The requested format of images.

    Attributes:
        inputs: The input views.
        mask: Whether the corner with the scale bar is covered.
        match: How images of another site are matched; None for not at all.
    """

    inputs: tuple[InputView, ...]
    mask: bool
    match: Match | None = None

    def read(self, path: Path, gate: Gate = PIXELS) -> Answer:
        """Reads a file in this process."""
        try:
            image = read_image(path, 1, gate)
            resized = prepare_sides(image, self.inputs, self.mask, self.match)
            return np.ascontiguousarray(
                pack(make_views(cut_rois(resized, self.inputs), self.inputs))
            )
        except ImageError as error:
            return str(error)
        except MemoryError:
            return "cannot be decoded (takes too much memory)"
        except Exception as error:  # any other error rejects only this file
            return f"cannot be decoded ({type(error).__name__})"


def read_all(paths: Sequence[Path], wanted: Wanted, workers: int | None) -> Iterator[Answer]:
    """Yields the content of each file, in order.

    Args:
        paths: The files.
        wanted: The requested format.
        workers: Number of reading processes; None for one per core, at most eight, fewer for few
            files; 0 reads in this process, which a crash of a decoder would end.
    """
    if workers == 0:
        yield from (wanted.read(path) for path in paths)
        return
    few = -(-len(paths) // _FILES_A_READER)
    workers = workers or max(1, min(_MOST, os.cpu_count() or 1, few))
    readers = threading.local()
    started: list[_Reader] = []

    def read(path: Path) -> Answer:
        if not hasattr(readers, "own"):
            readers.own = _Reader(wanted)
            started.append(readers.own)
        own: _Reader = readers.own
        return own.read(path)

    with ThreadPoolExecutor(workers, "reading") as pool:
        try:
            ahead: deque[Future[Answer]] = deque()
            for path in paths:
                ahead.append(pool.submit(read, path))
                if len(ahead) > 4 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for reader in started:
                reader.close()


_PATH = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_SERVE = "from bcd.data.sandbox import serve; serve(*json.loads(sys.argv[2]))"


class _Reader:
    """One reading process, restarted whenever it ends."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def read(self, path: Path) -> Answer:
        """Reads a file; tries a second time if the process ended unexpectedly."""
        answer = self._attempt(path)
        if answer is None and not self._closed:
            answer = self._attempt(path)
        return "cannot be decoded (the decoder crashed)" if answer is None else answer

    def _attempt(self, path: Path) -> Answer | None:
        """The answer of the process; None if it ends without one."""
        process = self._process or self._start()
        slow = threading.Event()

        def stop() -> None:
            slow.set()
            process.kill()

        assert process.stdin is not None
        assert process.stdout is not None
        answer: Answer | None = None
        with room_for(path), contextlib.suppress(OSError, ValueError):
            _send(process.stdin, json.dumps(str(path)))
            with _within(_STARTING_SECONDS, stop):
                word, value = _hear(process.stdout)
            if word == "room":
                with PIXELS.taking(int(value)), _within(_WAITING_SECONDS, stop):
                    _send(process.stdin, '"go"')
                    word, value = _hear(process.stdout)
                    if word == "pixels":
                        answer = self._pixels(process.stdout)
            if word == "reason":
                answer = value
        if answer is None and (self._stop() == -_SIGXCPU or slow.is_set()):
            return f"cannot be decoded (takes longer than {_DECODING_SECONDS} s)"
        return answer

    def _pixels(self, stream: IO[bytes]) -> Answer | None:
        shape = packed_shape(self._wanted.inputs)
        data = stream.read(math.prod(shape))
        if len(data) < math.prod(shape):
            return None
        return np.frombuffer(bytearray(data), np.uint8).reshape(shape)

    def _start(self) -> subprocess.Popen[bytes]:
        inputs = [astuple(view) for view in self._wanted.inputs]
        match = self._wanted.match
        plain = None if match is None else match.to_plain()
        wanted = json.dumps([inputs, self._wanted.mask, plain])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PATH + _SERVE, json.dumps(sys.path), wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries print warnings about files
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # only the parent handles an interruption, and ends the reader
        )
        if self._closed:
            self._process.kill()
        return self._process

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


@contextlib.contextmanager
def _within(seconds: float, stop: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _send(stream: IO[bytes], line: str) -> None:
    stream.write(line.encode("ascii") + b"\n")
    stream.flush()


def _hear(stream: IO[bytes]) -> tuple[str, str]:
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
        _send(self._questions, json.dumps(("room", amount)))
        if not self._answers.readline():
            raise SystemExit
        yield


def serve(inputs: Sequence[Sequence[Any]], mask: bool, match: Mapping[str, Any] | None) -> None:
    """Runs a reader until its parent closes the pipe; the arguments are those of `Wanted`."""
    answers, questions = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print must not reach the pipe
    _bound_memory()
    views = tuple(InputView(*one) for one in inputs)
    wanted = Wanted(views, mask, Match.from_plain(match))
    gate = _Asking(questions, answers)
    for line in answers:
        _bound_time()  # for opening too: a header may be endless
        answer = wanted.read(Path(json.loads(line)), gate)
        if isinstance(answer, str):
            _send(questions, json.dumps(("reason", answer)))
        else:
            _send(questions, json.dumps(("pixels", "")))
            questions.write(answer.tobytes())
            questions.flush()


def _bound_time() -> None:
    """Grants this process some more seconds of processor time, if the system supports limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soon = math.ceil(time.process_time()) + _DECODING_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soon, hard))


def _bound_memory() -> None:
    """Limits this process's memory and disables core dumps, if the system supports it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
