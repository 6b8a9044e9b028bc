"""The table of what waits to be posted.

It has one row per case, with the latest version. `collect` finds changed cases in the chain, where
every change is recorded in its own transaction, also one by a command; so none can be missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    and_,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from bcd.serving.accounts.database import Database
from bcd.serving.outbox.entries import FAILED, SENT, WAITING, Claim, Entry, Outcome
from bcd.serving.records.tables import ANSWERS, CASES, HEAD, OUTBOX, OUTBOX_POSITION, RECORDS

DELIVERED = "delivered"  # kind of the records of deliveries
_USER = "server"
_ERROR = 200  # characters
_FREE = {"lease_owner": None, "lease_until": None}
_AHEAD = 1000  # records of no case that are looked through again before their place is noted


class _TakenError(Exception):
    """Another process has the case."""


class Outbox:
    """What waits to be posted; several processes may share it.

    Methods raise `StorageFullError` and `UnavailableError` as those of `Database` do.

    Args:
        engine: Of the records.
        owner: Of leases; unique to this process.
        delay: Seconds after a change in which further changes of the case join it.
        lease: Seconds that a claim is valid.
        clock: Seconds since 1970; None for the clock that all processes share, the database's.
    """

    def __init__(
        self,
        engine: Engine,
        owner: str = "",
        delay: float = 0.0,
        lease: float = 300.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._database = Database(engine)
        self._owner, self._delay, self._lease, self._clock = owner, delay, lease, clock

    def start(self, base: str) -> str:
        """Notes where the chain ends when there is an outbox for the first time.

        Cases that do not change any more are not posted then; `add` puts them in.

        Args:
            base: Of which identifiers are to be made.

        Returns:
            Of which they are made: what was given at the first time.
        """
        with self._database.noting() as connection:
            connection.execute(select(HEAD.c.number).with_for_update())  # one process only
            noted = connection.execute(select(OUTBOX_POSITION.c.base)).scalar_one_or_none()
            if noted is None:
                number = connection.execute(select(HEAD.c.number)).scalar_one()
                first = {"id": 1, "number": number, "base": base}
                connection.execute(insert(OUTBOX_POSITION).values(first))
        return base if noted is None else str(noted)

    def collect(self) -> int:
        """Puts cases into the outbox that have changed since the last call; returns how many.

        Cases without images are left out until they have some.
        """
        with self._database.reading() as connection:
            known = _position(connection)
            newest = connection.execute(select(HEAD.c.number)).scalar_one()
            if known is None or newest == known:
                return 0
            changed = select(RECORDS.c.number).where(*_of_cases(known, newest)).limit(1)
            if newest < known + _AHEAD and connection.execute(changed).first() is None:
                return 0
        with self._database.noting() as connection:
            position = _position(connection, lock=True)
            newest = connection.execute(select(HEAD.c.number)).scalar_one()
            # Records are numbered in the order of their commits, so none up to there can follow.
            these = select(RECORDS.c.case_id).where(*_of_cases(position or 0, newest))
            found = self._put(connection, CASES.c.id.in_(these))
            connection.execute(update(OUTBOX_POSITION).values(number=newest))
        return found

    def _put(self, connection: Connection, which: ColumnElement[bool]) -> int:
        """Marks cases that have images as waiting, in their present versions."""
        images = select(ANSWERS.c.case_id).where(ANSWERS.c.case_id == CASES.c.id).exists()
        query = select(CASES.c.id, CASES.c.version).where(which, images).order_by(CASES.c.id)
        due = self._now(connection) + self._delay
        rows = connection.execute(query).all()
        for case_id, version in rows:
            self._mark(connection, case_id, version, due)
        return len(rows)

    def _mark(self, connection: Connection, case_id: str, version: int, due: float) -> None:
        table = OUTBOX.c
        row = _row(connection, case_id)
        if row is None:
            first = {"case_id": case_id, "state": WAITING, "version": version, "due": due}
            connection.execute(insert(OUTBOX).values(**first, attempts=0, error="", servers=""))
        elif version > row["version"] or row["state"] != WAITING:
            values: dict[str, object] = {"version": version}
            if row["state"] != WAITING:
                values |= {"state": WAITING, "due": due}
            connection.execute(update(OUTBOX).where(table.case_id == case_id).values(values))

    def claim(self) -> Claim | None:
        """Takes the case that has been due longest; None if there is none."""
        table = OUTBOX.c
        with self._database.reading() as connection:
            if connection.execute(self._due(self._now(connection))).first() is None:
                return None  # the usual answer, for which nobody has to wait
        with self._database.noting() as connection:
            now = self._now(connection)
            query = self._due(now).with_for_update(skip_locked=True)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                return None
            values = {
                "attempts": row["attempts"] + 1,
                "lease_owner": self._owner,
                "lease_until": now + self._lease,
            }
            where = table.case_id == row["case_id"]
            connection.execute(update(OUTBOX).where(where).values(values))
        return Claim(row["case_id"], values["attempts"], tuple(row["servers"].splitlines()))

    @staticmethod
    def _due(now: float) -> Select[Any]:
        table = OUTBOX.c
        free = or_(table.lease_until.is_(None), table.lease_until < now)
        where = and_(table.state == WAITING, table.due <= now, free)
        return select(OUTBOX).where(where).order_by(table.due).limit(1)

    def renew(self, claim: Claim, servers: Sequence[str]) -> bool:
        """Prolongs a claim; False if another process has the case now.

        Args:
            claim: Of the case.
            servers: That may have contents of the case from now on.
        """
        table = OUTBOX.c
        mine = and_(table.case_id == claim.case_id, table.lease_owner == self._owner)
        with self._database.noting() as connection:
            until = self._now(connection) + self._lease
            values = {"lease_until": until, "servers": "\n".join(servers)}
            done = connection.execute(update(OUTBOX).where(mine).values(values))
        return bool(done.rowcount)

    def delivered(self, claim: Claim, outcome: Outcome) -> None:
        """Records that the server has a version of the case, and ends the claim.

        If another process has the case by now, it will see that, and record it.
        """
        facts = {
            "case": claim.case_id, "version": outcome.version, "server": outcome.server,
            "place": outcome.place,
        }  # fmt: skip
        with (
            suppress(_TakenError),
            self._database.changing(_USER, DELIVERED, facts) as connection,
        ):
            self._done(connection, claim, outcome)

    def skip(self, claim: Claim, outcome: Outcome) -> None:
        """Ends the claim of a case of which the server has nothing and nothing has to be sent."""
        with suppress(_TakenError), self._database.noting() as connection:
            self._done(connection, claim, outcome)

    def _done(self, connection: Connection, claim: Claim, outcome: Outcome) -> None:
        row = _row(connection, claim.case_id)
        if row is None or row["lease_owner"] != self._owner:
            raise _TakenError
        sent = max(outcome.version, row["sent"] or 0)
        values: dict[str, object] = {"sent": sent, "attempts": 0, "error": outcome.left[:_ERROR]}
        values["servers"] = "\n".join(outcome.servers)
        if sent >= row["version"]:
            values["state"] = FAILED if outcome.left else SENT
        else:
            values["due"] = self._now(connection) + self._delay
        self._end(connection, claim, values)

    def postpone(self, claim: Claim, seconds: float, error: str) -> None:
        """Ends a claim; the case is tried again after some seconds."""
        with self._database.noting() as connection:
            values = {"due": self._now(connection) + seconds, "error": error[:_ERROR]}
            self._end(connection, claim, values)

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a claim; the case is not tried again until it changes or `retry` is called."""
        with self._database.noting() as connection:
            self._end(connection, claim, {"state": FAILED, "error": error[:_ERROR]})

    def release(self) -> None:
        """Ends all claims of this process."""
        with self._database.noting() as connection:
            mine = OUTBOX.c.lease_owner == self._owner
            connection.execute(update(OUTBOX).where(mine).values(_FREE))

    def _end(self, connection: Connection, claim: Claim, values: dict[str, object]) -> None:
        mine = and_(OUTBOX.c.case_id == claim.case_id, OUTBOX.c.lease_owner == self._owner)
        connection.execute(update(OUTBOX).where(mine).values({**values, **_FREE}))

    def begin_device(self) -> float | None:
        """Takes the right to make a Device; None if another process has it.

        It ends at the time that is returned, or by `end_device`.
        """
        table = OUTBOX_POSITION.c
        with self._database.noting() as connection:
            now = self._now(connection)
            free = or_(table.device_until.is_(None), table.device_until < now)
            taken = update(OUTBOX_POSITION).where(free).values(device_until=now + self._lease)
            return now + self._lease if connection.execute(taken).rowcount else None

    def end_device(self, until: float) -> None:
        """Gives back what `begin_device` took."""
        mine = OUTBOX_POSITION.c.device_until == until
        with self._database.noting() as connection:
            connection.execute(update(OUTBOX_POSITION).where(mine).values(device_until=None))

    def counts(self) -> dict[str, int]:
        """The number of cases that wait, and of those that failed."""
        query = select(OUTBOX.c.state, func.count()).where(OUTBOX.c.state != SENT)
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(OUTBOX.c.state)).all()
        return {WAITING: 0, FAILED: 0, **{str(state): int(count) for state, count in rows}}

    def entries(self, limit: int = 1000) -> list[Entry]:
        """Cases that wait or failed, those that failed first."""
        table = OUTBOX.c
        columns = [table[each.name] for each in fields(Entry)]
        query = select(*columns).where(table.state != SENT).order_by(table.state, table.due)
        with self._database.reading() as connection:
            return [Entry(*row) for row in connection.execute(query.limit(limit))]

    def retry(self, case_ids: Sequence[str] = ()) -> int:
        """Has cases that wait or failed tried at once: these, or all; returns how many."""
        table = OUTBOX.c
        where = [table.state != SENT, *([table.case_id.in_(case_ids)] if case_ids else [])]
        with self._database.noting() as connection:
            values = {"state": WAITING, "due": self._now(connection)}
            return connection.execute(update(OUTBOX).where(*where).values(values)).rowcount

    def add(self, case_ids: Sequence[str] = ()) -> int:
        """Puts cases in that were not posted, or have to be posted anew: these, or all."""
        with self._database.noting() as connection:
            return self._put(connection, CASES.c.id.in_(case_ids) if case_ids else true())

    def _now(self, connection: Connection) -> float:
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return time.time()
        now = func.extract("epoch", func.clock_timestamp())
        return float(connection.execute(select(now)).scalar_one())


def _of_cases(after: int, until: int) -> tuple[ColumnElement[bool], ...]:
    """The condition that a record is about a case and in this part of the chain."""
    return RECORDS.c.number > after, RECORDS.c.number <= until, RECORDS.c.case_id.is_not(None)


def _position(connection: Connection, lock: bool = False) -> int | None:
    query = select(OUTBOX_POSITION.c.number)
    return connection.execute(query.with_for_update() if lock else query).scalar_one_or_none()


def _row(connection: Connection, case_id: str) -> RowMapping | None:
    query = select(OUTBOX).where(OUTBOX.c.case_id == case_id).with_for_update()
    return connection.execute(query).mappings().one_or_none()
