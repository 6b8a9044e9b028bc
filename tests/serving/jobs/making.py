"""Jobs for tests: servers that share records, and an engine that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from sqlalchemy import select, update

from bcd.config.interop import JobsConfig
from bcd.config.serve import ServeConfig
from bcd.data.items import Fault
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.engine.making import unreadable
from bcd.serving.engine.sites import AS_TRAINED, Way
from bcd.serving.jobs.leases import Job, Leases
from bcd.serving.jobs.worker import Worker
from bcd.serving.records.cases import NewImage
from bcd.serving.records.database import writing
from bcd.serving.records.store import Records
from bcd.serving.records.tables import JOBS
from bcd.serving.services import Services
from tests.serving.making import IDENTITY, serve_config
from tests.serving.records.making import answer, content

JOBS_CONFIG = JobsConfig(60.0, 2, 0.05, 24.0)


@dataclass
class FakeEngine:
    """Answers at once what it does not refuse.

    Attributes:
        identity: Of the model.
        waiting: As if so many images waited.
        error: Raised instead of an answer.
        faults: So many images are not read, for no fault of theirs.
        hangs: Whether there is never an answer.
        asked: Images that were to be answered.
        ways: By site.
    """

    identity: ModelIdentity = IDENTITY
    waiting: int = 0
    error: Exception | None = None
    faults: int = 0
    hangs: bool = False
    asked: list[bytes] = field(default_factory=list)
    ways: Mapping[str, Way] = field(default_factory=lambda: {"": AS_TRAINED})

    def ready(self) -> str:
        return ""

    async def answer(self, images: Sequence[bytes], site: str = "") -> list[ImageAnswer]:
        self.asked += images
        if self.hangs:
            await asyncio.sleep(60)
        if self.error is not None:
            raise self.error
        if self.faults:
            self.faults -= 1
            return [unreadable(data, Fault("crashed"), self.identity, 0.0) for data in images]
        return [answered(NewImage("", data)) for data in images]

    def refuse(self, image: NewImage, site: str = "") -> ImageAnswer:
        return unreadable(image.data, image.error, self.identity, 0.0)


def answered(image: NewImage, model: ModelIdentity = IDENTITY) -> ImageAnswer:
    """The answer for an image."""
    return replace(answer(0), sha256=image.sha256, model_sha256=model.sha256)


class Office:
    """Servers that share records, and a case.

    Args:
        records: They share them.
        folder: For the configuration.
        model: Of the case.
    """

    def __init__(self, records: Records, folder: Path, model: ModelIdentity = IDENTITY) -> None:
        self.records = records
        self.cfg: ServeConfig = serve_config(folder)
        self.cfg.jobs = JOBS_CONFIG
        self.case = records.open_case("anna", "label", model, 1)

    def services(self, engine: Any = None) -> Services:
        """Of one server."""
        return cast(Services, Shared(self.cfg, engine or FakeEngine(), self.records))

    def leases(
        self, model: ModelIdentity = IDENTITY, sites: Sequence[str] = ("",), **changes: Any
    ) -> Leases:
        """Of one server."""
        return Leases(self.records, model.sha256, sites, replace(JOBS_CONFIG, **changes))

    def step(self, engine: Any = None) -> bool:
        """Has a new server answer the jobs of one lease."""
        return asyncio.run(Worker(self.services(engine)).step())

    def rows(self) -> list[Any]:
        """The table's rows, by time."""
        with self.records.engine.connect() as connection:
            return list(connection.execute(select(JOBS).order_by(JOBS.c.time)))

    def expire(self) -> None:
        """Ends all leases, as if their servers had."""
        with writing(self.records.engine) as connection:
            connection.execute(update(JOBS).values(lease_until=0.0))


@dataclass
class Shared:
    """What jobs need of `Services`."""

    cfg: ServeConfig
    engine: Any
    records: Records


def new(number: int, upload: str = "") -> NewImage:
    """An image of a scanner."""
    return NewImage(f"secret-{number}.png", content(number), upload)


def names(jobs: Sequence[Job]) -> list[str]:
    """Of the images."""
    return [job.image.name for job in jobs]
