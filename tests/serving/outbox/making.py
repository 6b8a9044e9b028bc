"""A server's services without an engine, and a sender whose clock tests set."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bcd.serving.errors import UnprocessableError
from bcd.serving.outbox.sender import Sender
from bcd.serving.records.database import database_url
from bcd.serving.records.store import Records, open_records
from bcd.serving.services import Services
from tests.serving.making import IDENTITY, serve_config
from tests.serving.records.making import images, images_config

BASE = "https://smears.example.org"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1e9

    def __call__(self) -> float:
        return self.seconds


class NoEngine:
    """Answers nothing; the images of these tests are no images."""

    identity = IDENTITY

    async def thumbnail(self, content: bytes, side: int) -> bytes:
        """As of an image that cannot be read."""
        raise UnprocessableError(f"{len(content)} bytes, which are no image of {side} pixels")


@dataclass(frozen=True)
class Posting:
    """What a test of the outbox needs.

    Attributes:
        services: With records.
        clock: Of all senders.
    """

    services: Services
    clock: Clock

    @property
    def records(self) -> Records:
        """The records."""
        return self.services.records

    def sender(self, jitter: float = 0.0) -> Sender:
        """A new sender, as of a server that has just started."""
        made = Sender(self.services, self.clock, lambda: jitter)
        made.start()
        return made


@contextmanager
def posting(folder: Path, fhir_url: str, *overrides: str, url: str | None = None) -> Iterator[Any]:
    """Services that post to a FHIR server.

    Args:
        folder: Of the records.
        fhir_url: Of the FHIR server.
        overrides: Of the configuration.
        url: Of the records' database; None for SQLite in the folder.
    """
    cfg = serve_config(folder, f"url={BASE}", f"fhir.url={fhir_url}", *overrides)
    with open_records(url or database_url(None, cfg.folder), images_config(keep=False)) as records:
        services = Services(cfg, cast(Any, NoEngine()), records, cast(Any, None))
        yield Posting(services, Clock())


def new_case(post: Posting, count: int = 2, referred: int = 0) -> str:
    """A case of so many images, of which the first are referred; gives its id."""
    case = post.records.open_case("anna", "a label", IDENTITY, 1)
    post.records.add_images("anna", case, IDENTITY, images(count, referred))
    return case


def send(post: Posting, sender: Sender | None = None, later: float = 10.0) -> int:
    """Posts what is due after some seconds, by a new sender if none is given."""

    async def once(made: Sender) -> int:
        try:
            made.outbox.collect()
            post.clock.seconds += later
            return await made.post_due()
        finally:
            await made.close()

    return asyncio.run(once(sender or post.sender()))
