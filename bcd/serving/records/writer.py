"""The thread that writes: requests that wait at the same time share one commit."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

from sqlalchemy import Engine

from bcd.serving.errors import RequestError, UnavailableError
from bcd.serving.records.chain import Ledger
from bcd.serving.records.database import request_error, writing

T = TypeVar("T")
Change = Callable[[Ledger], T]

_GROUP = 256  # changes in one commit
_FAILED_SECONDS = 30.0  # after a failure; then only another request shows whether it still fails

_log = logging.getLogger(__name__)


class _Job(Generic[T]):
    """A change that waits.

    Attributes:
        change: Appends records; what it returns is the result.
        future: Resolved after the commit.
    """

    def __init__(self, change: Change[T]) -> None:
        self.change = change
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # from now on nobody can cancel it
        self.result: T | None = None


class Writer:
    """Commits changes, one group after the other, in a thread of its own.

    A change that raises is rolled back alone. If the disk is too full for a group, each of its
    changes is tried in a transaction of its own, so that a large one does not take others with it.

    Args:
        engine: The database.
        file: Of an SQLite database.
        idle: Called between groups, at least once a minute.
    """

    def __init__(
        self, engine: Engine, file: Path | None, idle: Callable[[], None] | None = None
    ) -> None:
        self._engine, self._file, self._idle = engine, file, idle
        self._inode = file.stat().st_ino if file else None
        self._failure = ""  # of the last commit
        self._failed_at = 0.0
        self._models: frozenset[str] = frozenset()
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def do(self, change: Change[T]) -> T:
        """Makes a change and waits until it is on disk; see `submit`."""
        return self.submit(change).result()

    def submit(self, change: Change[T]) -> Future[T]:
        """Has a change made.

        Args:
            change: Reads and appends in the transaction of the ledger. It may be called again if
                the commit fails.

        Returns:
            Gets what the change returned when it is on disk, or a `RequestError` that the change
            raised, or that says that the database is full or gone; then nothing of the change is
            recorded.

        Raises:
            UnavailableError: The records are closed.
        """
        job = _Job(change)
        with self._closing:
            if self._closed:
                raise UnavailableError("The server is stopping.")
            self._jobs.put(job)  # type: ignore[arg-type]
        return job.future

    def do_now(self, change: Change[T]) -> T:
        """Makes a change in the writer's thread, for `idle`; see `do`."""
        job = _Job(change)
        self._commit([job])  # type: ignore[list-item]
        return job.future.result()

    def ready(self) -> str:
        """Why nothing can be written, as far as it is known without writing; empty if it can.

        That the last commit failed counts for half a minute, as a server that is sent no requests
        because of it would otherwise never be ready again.
        """
        if not self._thread.is_alive():
            return "The records cannot be written: the server is stopping."
        try:
            self._check_file()
        except UnavailableError as error:
            return error.detail
        recent = time.monotonic() - self._failed_at < _FAILED_SECONDS
        return self._failure if recent else ""

    def close(self) -> None:
        """Commits what waits and ends the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            group: list[_Job[object]] = []
            with contextlib.suppress(queue.Empty):
                job = self._jobs.get(timeout=60)
                while job is not None and len(group) < _GROUP:
                    group.append(job)
                    job = self._jobs.get_nowait()
                # Only the last one is None, because nothing is put after it.
                ending = job is None
                if job is not None:
                    group.append(job)
            if group:
                self._commit(group)
            if self._idle and not ending:
                try:
                    self._idle()
                except Exception:  # without this thread, every request would wait forever
                    _log.exception("records: the regular work failed; it is tried again")

    def _commit(self, group: list[_Job[object]]) -> None:
        try:
            failed = self._transaction(group)
        except BaseException as error:
            known = request_error(error, self._file) if isinstance(error, Exception) else None
            # Whether a commit without an answer was made is unknown: a second one could double it.
            if len(group) > 1 and not isinstance(known, UnavailableError):
                for job in group:
                    self._commit([job])
                return
            if known is not None:
                self._failure, self._failed_at = known.detail, time.monotonic()
            for job in group:
                job.future.set_exception(known or error)
            return
        self._failure = ""
        for job in group:
            if job in failed:
                job.future.set_exception(failed[job])
            else:
                job.future.set_result(job.result)

    def _transaction(self, group: list[_Job[object]]) -> dict[_Job[object], RequestError]:
        """Makes the changes of a group; returns those that were refused, with the reason."""
        refused: dict[_Job[object], RequestError] = {}
        self._check_file()
        with writing(self._engine) as connection:
            ledger = Ledger(connection, self._models)
            for job in group:
                try:
                    with ledger.change():
                        job.result = job.change(ledger)
                except RequestError as error:
                    refused[job] = error
            ledger.finish()
        self._models = ledger.models  # now that they are committed
        return refused

    def _check_file(self) -> None:
        """Refuses to write to a file that was deleted or replaced: it would be lost."""
        try:
            same = self._file is None or self._file.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise UnavailableError("The records cannot be used: their file is gone.")
