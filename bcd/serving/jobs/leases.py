"""Jobs that one server has taken, for a while: the lease of one that ends goes to another.

`attempts` of a job is 0 while it was never tried. It is 1 after a try together with others that did
not come to an answer, and from then on the job is tried alone, which adds one each time. So only
what happens to an image while it is answered alone counts against `jobs.attempts`: it never loses
its answer because it was in hand together with one that ends servers, or because servers are killed
while they have many.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, exists, select, update

from bcd.config.interop import JobsConfig
from bcd.serving.accounts.database import Database
from bcd.serving.answers import ImageAnswer
from bcd.serving.engine.health import AGAIN_SECONDS
from bcd.serving.errors import UnavailableError
from bcd.serving.jobs.adding import described_id
from bcd.serving.records.cases import NewImage, Source
from bcd.serving.records.chain import Ledger
from bcd.serving.records.changes import add_images, model_of
from bcd.serving.records.database import database_time
from bcd.serving.records.store import Records
from bcd.serving.records.tables import ANSWERS, CASES, JOBS
from bcd.serving.records.waiting import WAITING, give_up

MOST_BYTES = 64_000_000  # of the images of one lease, unless a single one is larger
_UNKNOWN = b'{"name": "", "source": null, "kept": {}, "error": ""}'
CHANGED = "was changed in the database while it waited"
_FORGET = 7 * 86400.0  # seconds after which nobody is told any more that an image has failed


@dataclass(frozen=True)
class Job:
    """An image that this server answers.

    Attributes:
        id: That the image will have in the case.
        user: Who has added it.
        case_id: Of the case.
        model_sha256: Of the case's model.
        sha256: Of the image, when it was added.
        image: With its bytes.
        site: Of the case.
        last: Whether it is not tried again if a reading process ends.
        refused: Why no server answers it any more; empty if this one does.
    """

    id: str
    user: str
    case_id: str
    model_sha256: str
    sha256: str
    image: NewImage
    site: str
    last: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Lease:
    """Jobs that were taken together.

    Attributes:
        owner: Random; who has it owns the jobs.
        jobs: At least one.
    """

    owner: str
    jobs: tuple[Job, ...]


class Leases:
    """Takes jobs for one server. Times are the database's, so that clocks need not agree.

    Methods raise `StorageFullError` and `UnavailableError` as those of `Records` do; call them in a
    thread.

    Args:
        records: With the jobs.
        model: sha256 of the model that this server has loaded.
        sites: That this server has.
        cfg: How long leases last, and how often a job is tried.
    """

    def __init__(
        self, records: Records, model: str, sites: Collection[str], cfg: JobsConfig
    ) -> None:
        self._records, self._model, self._sites, self._cfg = records, model, sites, cfg
        self._database = Database(records.engine)
        # Whether jobs that were tried before come first; not with a server that has just started,
        # as its first answer takes long, and it may be killed again.
        self._again = True

    @property
    def shared(self) -> bool:
        """Whether other servers may use the database."""
        return self._records.engine.dialect.name != "sqlite"

    def start(self) -> None:
        """Frees the jobs of an earlier server on an SQLite file, which only one can use."""
        if not self.shared:
            with self._database.noting() as connection:
                connection.execute(update(JOBS).values(lease_owner=None, lease_until=0.0))

    def take(self, most: int) -> Lease | None:
        """Takes jobs that no server has; None if there are none for this one.

        A job that was tried before is taken alone: if its image has ended a server, it does not
        end it while others are answered with it. One that was tried alone too often, or for too
        long has been of a model and site with which no server answers, comes with the reason why
        it is refused.

        Args:
            most: Jobs at most.
        """
        with self._database.reading() as connection:
            now = database_time(connection)
            keys = JOBS.c.key_id.in_(self._records.contents.key_ids)
            free = and_(WAITING, JOBS.c.lease_until <= now, keys)
            if connection.execute(select(JOBS.c.id).where(free).limit(1)).first() is None:
                return None
        with self._database.noting() as connection:
            for which, count, refused in self._choices(free, now, most):
                if lease := self._taken(connection, which, count, refused):
                    return lease
        return None

    def _choices(
        self, free: ColumnElement[bool], now: float, most: int
    ) -> list[tuple[ColumnElement[bool], int, str]]:
        """Conditions on jobs, how many are taken, and why they are refused; in order."""
        cfg, table = self._cfg, JOBS.c
        cases = select(CASES.c.id).where(CASES.c.site.in_(self._sites))
        known = and_(table.model_sha256 == self._model, table.case_id.in_(cases))
        own = and_(free, known)
        tried = and_(own, table.attempts.between(1, cfg.attempts))
        often = and_(free, table.attempts > cfg.attempts)
        begin = now - cfg.hours * 3600
        late = and_(free, ~known, table.time <= begin, ~_served(begin, now))
        nobody = f"was not answered: no server answered with its model and site for {cfg.hours:g} h"
        usual = [(tried, 1, ""), (and_(own, table.attempts == 0), most, "")]
        self._again = not self._again
        return [
            (often, most, _ended(cfg.attempts)),
            *(usual if self._again else usual[::-1]),
            (late, most, nobody),
        ]

    def _taken(
        self, connection: Connection, which: ColumnElement[bool], most: int, refused: str
    ) -> Lease | None:
        query = select(JOBS.c.id, JOBS.c.size).where(which).order_by(JOBS.c.time).limit(most)
        ids: list[str] = []
        size = 0
        for job_id, bytes_ in connection.execute(query.with_for_update(skip_locked=True)):
            size += bytes_
            if ids and size > MOST_BYTES:
                break
            ids.append(job_id)
        if not ids:
            return None
        owner, these = secrets.token_hex(8), JOBS.c.id.in_(ids)
        until = database_time(connection) + self._cfg.lease_seconds
        tried = JOBS.c.attempts + (1 if len(ids) > 1 else case((JOBS.c.attempts == 0, 2), else_=1))
        values = {"lease_owner": owner, "lease_until": until, "attempts": tried}
        connection.execute(update(JOBS).where(these).values(values))
        taken = select(JOBS, CASES.c.site).join(CASES, CASES.c.id == JOBS.c.case_id).where(these)
        rows = connection.execute(taken.order_by(JOBS.c.time)).mappings()
        return Lease(owner, tuple(self._job(row, refused) for row in rows))

    def _job(self, row: Any, refused: str) -> Job:
        about = self._opened(described_id(row["id"]), row["key_id"], row["image"])
        data = self._opened(row["id"], row["key_id"], row["stored"])
        image = json.loads(about or _UNKNOWN)
        source = image["source"] and Source(**image["source"])
        new = NewImage(image["name"], data, row["upload"], source, image["kept"], image["error"])
        if not about or new.sha256 != row["sha256"]:
            new = replace(new, data=b"", error=CHANGED)
        return Job(
            row["id"], row["user_name"], row["case_id"], row["model_sha256"], row["sha256"], new,
            row["site"], row["attempts"] > self._cfg.attempts, refused,
        )  # fmt: skip

    def _opened(self, key: str, key_id: str, stored: bytes) -> bytes:
        """What was stored; nothing if it was changed."""
        try:
            return self._records.contents.opened(key, key_id, bytes(stored))
        except UnavailableError:
            return b""

    def renew(self, owner: str) -> None:
        """Prolongs a lease, as far as it was not lost."""
        with self._database.noting() as connection:
            until = database_time(connection) + self._cfg.lease_seconds
            held = JOBS.c.lease_owner == owner
            connection.execute(update(JOBS).where(held).values(lease_until=until))

    def postpone(self, owner: str, jobs: Sequence[Job]) -> None:
        """Frees jobs at which a reading process has ended, after a pause; they count as tried."""
        these = and_(JOBS.c.lease_owner == owner, JOBS.c.id.in_([job.id for job in jobs]))
        with self._database.noting() as connection:
            until = database_time(connection) + AGAIN_SECONDS
            values = {"lease_owner": None, "lease_until": until}
            connection.execute(update(JOBS).where(these).values(values))

    def give_back(self, owner: str) -> None:
        """Frees the jobs that a lease still has; they count as not tried."""
        with self._database.noting() as connection:
            values = {"lease_owner": None, "lease_until": 0.0, "attempts": JOBS.c.attempts - 1}
            connection.execute(update(JOBS).where(JOBS.c.lease_owner == owner).values(values))

    def record(self, owner: str, answered: Sequence[tuple[Job, ImageAnswer]]) -> int:
        """Records answers of one case and removes their jobs, in one transaction.

        Args:
            owner: Of the lease. Of jobs that it has lost, nothing is recorded.
            answered: Jobs of one user, case and model, with their answers.

        Returns:
            How many answers were recorded.

        Raises:
            RequestError: See `changes.add_images`.
        """
        contents = self._records.contents

        def change(ledger: Ledger) -> Sequence[tuple[str, NewImage, ImageAnswer]]:
            ids = [job.id for job, _ in answered]
            these = and_(JOBS.c.id.in_(ids), JOBS.c.lease_owner == owner, WAITING)
            query = select(JOBS.c.id).where(these).with_for_update()
            held = set(ledger.connection.scalars(query))
            rows = [(job.id, job.image, answer) for job, answer in answered if job.id in held]
            if not rows:
                return ()
            first = answered[0][0]
            model = model_of(ledger, first.model_sha256)
            added = add_images(ledger, first.user, first.case_id, model, rows, contents)
            ledger.connection.execute(delete(JOBS).where(JOBS.c.id.in_(held)))
            return [(image_id, *row[1:]) for image_id, row in zip(added, rows, strict=True)]

        recorded = self._records.change(change)
        for image_id, image, answer in recorded:
            contents.remember(image_id, image.data, answer)
        return len(recorded)

    def fail(self, owner: str, job: Job, why: str) -> None:
        """Ends the wait of a job that its case does not take."""
        held = and_(JOBS.c.id == job.id, JOBS.c.lease_owner == owner)
        with self._database.noting() as connection:
            give_up(connection, held, why)

    def forget(self) -> None:
        """Removes jobs that failed more than a week ago."""
        with self._database.noting() as connection:
            old = JOBS.c.time <= database_time(connection) - _FORGET
            connection.execute(delete(JOBS).where(~WAITING, old))


def _served(begin: float, now: float) -> ColumnElement[bool]:
    """Whether there is a server with a job's model and site, which may just be busy.

    It has answered one of their images since the beginning, or is answering one now.
    """
    site = select(CASES.c.site).where(CASES.c.id == JOBS.c.case_id).correlate(JOBS)
    its, answer, held, its_case = site.scalar_subquery(), ANSWERS.c, JOBS.alias(), CASES.alias()
    answered = select(answer.record).where(
        answer.time > begin, answer.model_sha256 == JOBS.c.model_sha256, answer.site == its,
        answer.predicted.is_not(None),
    )  # fmt: skip
    answering = select(held.c.id).where(
        held.c.lease_until > now, held.c.model_sha256 == JOBS.c.model_sha256,
        held.c.case_id == its_case.c.id, its_case.c.site == its,
    )  # fmt: skip
    return exists(answered.correlate(JOBS)) | exists(answering.correlate(JOBS))


def _ended(attempts: int) -> str:
    times = "once" if attempts == 1 else f"{attempts} times"
    what = "the server or the process that reads it ended"
    return f"was not answered: it was tried alone {times}, and each time {what}"
