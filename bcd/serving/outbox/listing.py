"""What people see of the outbox, and what they change in it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from bcd.errors import BcdError
from bcd.serving.accounts.database import Database
from bcd.serving.outbox.entries import FAILED, SENT, WAITING, Counts, Entry
from bcd.serving.records.cases import ERASED
from bcd.serving.records.tables import ANSWERS, CASES, OUTBOX, OUTBOX_POSITION

_PART = 200  # cases that are put in at a time
_PAUSE = 0.05  # seconds between parts, in which SQLite lets others write
CONFIRMED = "erased elsewhere"  # kind of the records of what people confirm

# FHIR servers that have contents of a case that is erased here. It follows from the tables, so that
# it is known whether or not anything is posted.
_NOT_ERASED = and_(
    OUTBOX.c.servers != "",
    OUTBOX.c.case_id.in_(select(CASES.c.id).where(CASES.c.status == ERASED)),
)
_SHOWN = or_(OUTBOX.c.state != SENT, _NOT_ERASED)


class Listing:
    """Cases in the outbox; also while servers post them.

    Methods raise `StorageFullError` and `UnavailableError` as those of `Database` do.

    Args:
        engine: Of the records.
        delay: Seconds after a change in which further changes of the case join it.
        clock: Seconds since 1970; None for the clock that all processes share, the database's.
    """

    def __init__(
        self, engine: Engine, delay: float = 0.0, clock: Callable[[], float] | None = None
    ) -> None:
        self._database, self._delay, self._clock = Database(engine), delay, clock

    def counts(self) -> Counts:
        """How many cases wait, failed, and are erased here but not on a FHIR server."""
        states = select(OUTBOX.c.state, func.count()).where(OUTBOX.c.state != SENT)
        left = select(OUTBOX.c.servers, func.count()).where(_NOT_ERASED)
        with self._database.reading() as connection:
            counted = connection.execute(states.group_by(OUTBOX.c.state)).all()
            rows = connection.execute(left.group_by(OUTBOX.c.servers)).all()
        found = {str(state): int(count) for state, count in counted}
        on: Counter[str] = Counter()
        for servers, count in rows:
            on.update(dict.fromkeys(servers.splitlines(), count))
        total = sum(count for _, count in rows)
        return Counts(found.get(WAITING, 0), found.get(FAILED, 0), total, dict(sorted(on.items())))

    def entries(self) -> list[Entry]:
        """Cases that wait or failed, or are erased here only; those that failed first."""
        table = OUTBOX.c
        query = select(OUTBOX, _NOT_ERASED.label("erased")).where(_SHOWN)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.state, table.due)).mappings()
            return [_entry(row) for row in rows]

    def quiet_until(self) -> float | None:
        """Until when nothing is sent, as a FHIR server asked; None if that is over."""
        query = select(OUTBOX_POSITION.c.quiet_until)
        with self._database.reading() as connection:
            until = connection.execute(query).scalar_one_or_none()
            return until if until is not None and until > self._now(connection) else None

    def retry(self, case_ids: Sequence[str] = ()) -> int:
        """Has cases tried at once that wait or failed, or are erased here only; returns how many.

        Args:
            case_ids: These; empty for all.

        Raises:
            BcdError: One of these is no such case.
        """
        with self._database.noting() as connection:
            where = [_SHOWN, *([OUTBOX.c.case_id.in_(case_ids)] if case_ids else [])]
            values = {"state": WAITING, "due": self._now(connection), "attempts": 0}
            count = connection.execute(update(OUTBOX).where(*where).values(values)).rowcount
            _refuse_others(case_ids, count, "wait or failed")
            connection.execute(update(OUTBOX_POSITION).values(quiet_until=None))
        return count

    def add(self, case_ids: Sequence[str] = ()) -> int:
        """Has cases posted even if the server has their present version; returns how many.

        All cases are put in some at a time, so that others can write in between.

        Args:
            case_ids: These; empty for all that have images.

        Raises:
            BcdError: One of these is no case with images.
        """
        if case_ids:
            with self._database.noting() as connection:
                count = self._put(connection, CASES.c.id.in_(case_ids), asked=1)
                _refuse_others(case_ids, count, "have images")
            return count
        with self._database.reading() as connection:
            known = connection.execute(select(CASES.c.id).order_by(CASES.c.id)).scalars().all()
        count = 0
        for first in range(0, len(known), _PART):
            if first:
                time.sleep(_PAUSE)
            with self._database.noting() as connection:
                part = CASES.c.id.in_(known[first : first + _PART])
                count += self._put(connection, part, asked=1)
        return count

    def confirm_erased(self, user: str, case_ids: Sequence[str]) -> None:
        """Records that a person has erased cases on the FHIR servers that have them.

        Raises:
            BcdError: One of these is no case that is erased here only.
        """
        mine = and_(_NOT_ERASED, OUTBOX.c.case_id.in_(case_ids))
        facts: dict[str, object] = {}
        with self._database.changing(user, CONFIRMED, facts) as connection:
            query = select(OUTBOX.c.case_id, OUTBOX.c.servers).where(mine)
            rows = connection.execute(query.with_for_update()).all()
            _refuse_others(case_ids, len(rows), "are erased here but not on a FHIR server")
            facts["servers"] = {case_id: servers.splitlines() for case_id, servers in rows}
            connection.execute(update(OUTBOX).where(mine).values(servers=""))

    def _put(self, connection: Connection, which: ColumnElement[bool], asked: int = 0) -> int:
        """Marks cases that have images as waiting, in their present versions."""
        images = select(ANSWERS.c.case_id).where(ANSWERS.c.case_id == CASES.c.id).exists()
        query = select(CASES.c.id, CASES.c.version).where(which, images).order_by(CASES.c.id)
        due = self._now(connection) + self._delay
        rows = connection.execute(query).all()
        for case_id, version in rows:
            self._mark(connection, case_id, version, due, asked)
        return len(rows)

    def _mark(
        self, connection: Connection, case_id: str, version: int, due: float, asked: int
    ) -> None:
        row = row_of(connection, case_id)
        if row is None:
            first = {"case_id": case_id, "state": WAITING, "version": version, "due": due}
            first |= {"attempts": 0, "asked": asked, "error": "", "servers": ""}
            connection.execute(insert(OUTBOX).values(first))
        elif asked or version > row["version"] or row["state"] != WAITING:
            values: dict[str, object] = {"version": version, "asked": row["asked"] + asked}
            if asked or row["state"] != WAITING:
                values |= {"state": WAITING, "due": due}
            if asked:
                values["attempts"] = 0
            connection.execute(update(OUTBOX).where(OUTBOX.c.case_id == case_id).values(values))

    def _now(self, connection: Connection) -> float:
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return time.time()
        now = func.extract("epoch", func.clock_timestamp())
        return float(connection.execute(select(now)).scalar_one())


def row_of(connection: Connection, case_id: str) -> RowMapping | None:
    """The row of a case, which nobody else changes until the end; None if there is none."""
    query = select(OUTBOX).where(OUTBOX.c.case_id == case_id).with_for_update()
    return connection.execute(query).mappings().one_or_none()


def _entry(row: RowMapping) -> Entry:
    left = tuple(row["servers"].splitlines()) if row["erased"] else ()
    kept: dict[str, Any] = {name: row[name] for name in _KEPT}
    state = FAILED if left and row["state"] == SENT else row["state"]
    return Entry(**kept, state=state, not_erased_on=left)


_KEPT = ("case_id", "version", "sent", "attempts", "due", "error")


def _refuse_others(case_ids: Sequence[str], count: int, what: str) -> None:
    """Refuses, before anything is changed, if a case is not what it has to be."""
    wanted = len(set(case_ids))
    if count < wanted:
        raise BcdError(f"{wanted - count} of these {wanted} are no cases that {what}")
