"""A watcher with a clock of its own, and the answers that came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from bcd.serving.intake.watch import Watcher
from bcd.serving.records.cases import Case
from bcd.serving.records.tables import CASES
from bcd.serving.services import Services

MOST = 3  # images of a case here
DEADLINE = 60.0  # seconds for what takes well under one


class Following:
    """Steps a watcher, a second of its clock each time.

    Args:
        services: Of the server.
        folder: The watch folder.
        site: Of its images.
    """

    def __init__(self, services: Services, folder: Path, site: str = "") -> None:
        self.now, self.counts = 0.0, Counter[str]()
        self.folder, self._services = folder, services
        self.watcher = Watcher(services, folder, site, self._count, lambda: self.now)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    def step(self, seconds: float = 1.0) -> str:
        """Looks once, after some seconds; returns the problem."""
        self.now += seconds
        return asyncio.run(self.watcher.step())

    def until(self, reached: Callable[[], bool]) -> None:
        """Looks until something is reached."""
        last = time.monotonic() + DEADLINE
        while not reached():
            assert time.monotonic() < last
            self.step()
            time.sleep(0.01)

    def until_moved(self, *names: str) -> None:
        """Looks until these files are in `done` or `failed`."""
        self.until(lambda: all((self.folder / name).exists() for name in names))

    def until_empty(self) -> None:
        """Looks until no file waits."""
        self.step()
        self.until(lambda: not self.watcher.waiting)

    def put(self, name: str, data: bytes) -> Path:
        """Writes a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


def cases_of(services: Services) -> list[Case]:
    """All cases, in the order in which they were opened."""
    with services.records.engine.connect() as connection:
        ids = list(connection.scalars(select(CASES.c.id).order_by(CASES.c.record)))
    return [services.records.case(case_id) for case_id in ids]


def case_labelled(services: Services, label: str) -> Case:
    """The one case with this label."""
    (found,) = [case for case in cases_of(services) if case.label == label]
    return found


def files_in(folder: Path) -> set[str]:
    """Paths of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def answered(services: Services, label: str) -> dict[str, str | None]:
    """Names of the images of a case, and their classes."""
    return {one.name: one.answer.predicted for one in case_labelled(services, label).images}
