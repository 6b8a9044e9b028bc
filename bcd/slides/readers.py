"""Reads regions of a slide in separate processes, which a damaged file may end."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from bcd.config.environment import core_count
from bcd.console import printable
from bcd.data.items import Wanted
from bcd.data.reader import send
from bcd.data.reader_process import reader_environment
from bcd.data.sandbox import ReadingProcess
from bcd.errors import BcdError
from bcd.slides.dicom import is_dicom_slide
from bcd.slides.opening import MOST_REGION, Pixels, SlideFacts
from bcd.slides.serving import SECONDS, Request

_WAITING_SECONDS = 60.0  # for a region on a busy machine or a slow disk, and for a start
_MOST = 8  # readers
_AHEAD = 16  # regions that each reader reads in advance

_PATH = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_SERVE = "from bcd.slides.serving import serve; serve(*json.loads(sys.argv[2]))"
_SIGXCPU = getattr(signal, "SIGXCPU", 0)  # ends a process that has exceeded its time


class SlideReaders:
    """Processes that read regions of one slide; end them with a `with` block.

    Args:
        path: The slide.
        wanted: What the network gets of a tile.
        workers: Number of processes; None for one per core, at most eight.

    Attributes:
        facts: What the file says about itself.

    Raises:
        BcdError: The extra `slides` or `dicom` is not installed, or it is no slide that can be
            read.
    """

    def __init__(self, path: Path, wanted: Wanted, workers: int | None) -> None:
        if is_dicom_slide(path):
            if find_spec("pydicom") is None:
                raise BcdError("bcd slide needs pydicom for DICOM: pip install 'bcd[dicom]'")
        elif find_spec("tiffslide") is None:
            raise BcdError("bcd slide needs tiffslide: pip install 'bcd[slides]'")
        count = max(1, workers or min(_MOST, core_count()))
        self._ahead = _AHEAD * count
        self._processes = [_Process(path, wanted) for _ in range(count)]
        self._free: deque[_Process] = deque(self._processes)
        self._pool = ThreadPoolExecutor(count, "reading")
        try:
            self.facts = self._processes[0].open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SlideReaders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, requests: Iterable[Request]) -> Iterator[Pixels | str]:
        """Yields what each request asks for, in order, or the reason why it cannot be read."""
        ahead: deque[Future[Pixels | str]] = deque()
        for request in requests:
            ahead.append(self._pool.submit(self._read, request))
            if len(ahead) > self._ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, request: Request) -> Pixels | str:
        process = self._free.popleft()  # there are as many as threads
        try:
            return process.read(request)
        finally:
            self._free.append(process)


class _Process(ReadingProcess[Request, Pixels]):
    """A process that reads regions of a slide, started when it is needed."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        super().__init__()
        self._path = path
        inputs = [astuple(view) for view in wanted.inputs]
        # Absolute: the process is told where the file is, not where this one runs.
        self._arguments = json.dumps([str(path.absolute()), inputs, wanted.mask])

    def open(self) -> SlideFacts:
        """Starts the process and returns what the file says about itself."""
        found = self._start()
        if isinstance(found, str):
            raise BcdError(f"input={printable(str(self._path))}: {found}")
        return found

    def _attempt(self, task: Request) -> Pixels | str | None:
        """The answer of the process; None if it ends without one."""
        if self._process is None and isinstance(found := self._start(), str):
            return found
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        slow = threading.Event()
        answer: Pixels | str | None = None
        with contextlib.suppress(OSError, ValueError), _within(process, slow):
            send(process.stdin, task.to_line())
            answer = _receive(process.stdout)
        if answer is None and (self._stop() == -_SIGXCPU or slow.is_set()):
            return f"cannot be decoded (takes longer than {SECONDS} s)"
        return answer

    def _start(self) -> SlideFacts | str:
        self._process = process = subprocess.Popen(
            [sys.executable, "-c", _PATH + _SERVE, json.dumps(sys.path), self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries print warnings about files
            env=reader_environment()
            # Threads and their memory count against the process's limits.
            | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
            | {"TIFFSLIDE_NUM_DECODE_THREADS": "1"},
            start_new_session=True,  # only the parent handles an interruption, and ends the reader
        )
        if self._closed:
            process.kill()
        slow = threading.Event()
        message: dict[str, Any] = {}
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError), _within(process, slow):
            message = json.loads(process.stdout.readline())
        if "facts" in message:
            return SlideFacts.from_plain(message["facts"])
        self._stop()
        return str(message.get("reason", "cannot be opened (the reader crashed or took too long)"))


def _receive(stream: IO[bytes]) -> Pixels | str | None:
    """Pixels, or a reason; raises ValueError if the other side has ended."""
    message = json.loads(stream.readline())
    if "reason" in message:
        return str(message["reason"])
    shape = tuple(int(side) for side in message["shape"])
    if math.prod(shape) > 3 * MOST_REGION:
        return None
    data = stream.read(math.prod(shape))
    if len(data) < math.prod(shape):
        return None
    return np.frombuffer(bytearray(data), np.uint8).reshape(shape)


@contextlib.contextmanager
def _within(process: subprocess.Popen[bytes], slow: threading.Event) -> Iterator[None]:
    """Ends the process if the block takes too long."""

    def stop() -> None:
        slow.set()
        process.kill()

    timer = _timer(stop)
    try:
        yield
    finally:
        timer.cancel()


def _timer(stop: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(_WAITING_SECONDS, stop)
    timer.daemon = True
    timer.start()
    return timer
