"""Whose image is read next."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from typing import Protocol

from bcd.data.items import Answer, Item

asker: ContextVar[str] = ContextVar("asker", default="")  # user whose request is being answered

# Scanners and images that wait ask as users that nobody can be.
INTAKE, JOBS = "(intake)", "(jobs)"

# Images beyond the room for requests that these may have in the queue: so each of them can always
# have one there that nobody before it can keep out.
BEYOND = {INTAKE: 1, JOBS: 2}

_Task = tuple[Item, "Future[Answer]"]


class Reads(Protocol):
    """Reads images in the order in which it gets them."""

    def submit(self, item: Item) -> Future[Answer]:
        """Has an image read."""


class Turns:
    """Hands images to the reading processes, those of different users in turn.

    So nobody waits for all images of somebody else, only for those that are being read.

    Args:
        readers: They read.
        most: Images that they are given at the same time.
    """

    def __init__(self, readers: Reads, most: int) -> None:
        self._readers, self._most = readers, most
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[_Task]] = OrderedDict()  # who is next comes first
        self._given = 0

    def submit(self, item: Item) -> Future[Answer]:
        """Has an image read, unless that is cancelled; those of one user in this order."""
        answer: Future[Answer] = Future()
        user, task = asker.get(), (item, answer)
        with self._lock:
            self._waiting.setdefault(user, deque()).append(task)
        answer.add_done_callback(partial(self._forget, user, task))
        self._give()
        return answer

    def close(self) -> None:
        """Cancels what waits."""
        with self._lock:
            tasks = [task for tasks in self._waiting.values() for task in tasks]
        for _, answer in tasks:
            answer.cancel()

    def _give(self) -> None:
        while (task := self._next()) is not None:
            item, answer = task
            if answer.set_running_or_notify_cancel():
                self._readers.submit(item).add_done_callback(partial(self._was_read, answer))
            else:
                self._take_back()

    def _next(self) -> _Task | None:
        with self._lock:
            if self._given >= self._most or not self._waiting:
                return None
            user, tasks = self._waiting.popitem(last=False)
            task = tasks.popleft()
            if tasks:
                self._waiting[user] = tasks  # the last one now
            self._given += 1
            return task

    def _was_read(self, answer: Future[Answer], reading: Future[Answer]) -> None:
        self._take_back()
        self._give()
        if reading.cancelled() or (error := reading.exception()) is not None:
            answer.set_exception(InterruptedError() if reading.cancelled() else error)
        else:
            answer.set_result(reading.result())

    def _take_back(self) -> None:
        with self._lock:
            self._given -= 1

    def _forget(self, user: str, task: _Task, answer: Future[Answer]) -> None:
        """Drops the bytes of an image that nobody wants any more."""
        if not answer.cancelled():
            return
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._waiting[user].remove(task)
            if not self._waiting[user]:
                del self._waiting[user]
