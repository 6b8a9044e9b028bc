"""The table of what waits to be posted.

It has one row per case, with the latest version. `collect` finds changed cases in the chain, where
every change is recorded in its own transaction, also one by a command; so none can be missed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    and_,
    insert,
    or_,
    select,
    update,
)

from bcd.serving.outbox.entries import FAILED, SENT, WAITING, Claim, Outcome
from bcd.serving.outbox.listing import Listing, row_of
from bcd.serving.records.tables import CASES, HEAD, OUTBOX, OUTBOX_POSITION, RECORDS

DELIVERED = "delivered"  # kind of the records of deliveries
_USER = "server"
_ERROR = 200  # characters
_FREE = {"lease_owner": None, "lease_until": None}
_AHEAD = 1000  # records of no case that are looked through again before their place is noted


class _TakenError(Exception):
    """Another process has the case."""


class Outbox(Listing):
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
        super().__init__(engine, delay, clock)
        self._owner, self._lease = owner, lease

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
            # The server may be another one by now.
            connection.execute(update(OUTBOX_POSITION).values(quiet_until=None))
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

    def claim(self) -> Claim | None:
        """Takes the case that has been due longest; None if there is none, or not yet."""
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
        attempts = int(values["attempts"])
        return Claim(row["case_id"], row["version"], attempts, row["asked"], row["sent"] or 0)

    @staticmethod
    def _due(now: float) -> Select[Any]:
        table = OUTBOX.c
        free = or_(table.lease_until.is_(None), table.lease_until < now)
        quiet = select(OUTBOX_POSITION).where(OUTBOX_POSITION.c.quiet_until > now).exists()
        where = and_(table.state == WAITING, table.due <= now, free, ~quiet)
        return select(OUTBOX).where(where).order_by(table.due).limit(1)

    def renew(self, claim: Claim, server: str = "") -> bool:
        """Prolongs a claim; False if another process has the case now.

        Args:
            claim: Of the case.
            server: That may have contents of the case from now on; empty for none.
        """
        with self._database.noting() as connection:
            row = self._held(connection, claim)
            if row is None:
                return False
            values: dict[str, object] = {"lease_until": self._now(connection) + self._lease}
            if server:
                values["servers"] = _servers(row, server, contents=True)
            mine = OUTBOX.c.case_id == claim.case_id
            connection.execute(update(OUTBOX).where(mine).values(values))
        return True

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
        """Ends the claim of a case of which nothing has to be sent."""
        with suppress(_TakenError), self._database.noting() as connection:
            self._done(connection, claim, outcome)

    def _done(self, connection: Connection, claim: Claim, outcome: Outcome) -> None:
        row = self._held(connection, claim)
        if row is None:
            raise _TakenError
        sent = max(outcome.version, row["sent"] or 0)
        # Asked for once more while it was sent: it may be about what had been sent by then.
        asked = row["asked"] if row["asked"] > claim.asked else 0
        values: dict[str, object] = {"sent": sent, "attempts": 0, "error": "", "asked": asked}
        values["servers"] = _servers(row, outcome.server, outcome.contents)
        if sent >= row["version"] and not asked:
            values["state"] = SENT
        else:
            values["due"] = self._now(connection) + self._delay
        self._end(connection, claim, values)

    def postpone(self, claim: Claim, seconds: float, error: str) -> None:
        """Ends a claim; the case is tried again after some seconds, or when people have asked."""
        with self._database.noting() as connection:
            row = self._held(connection, claim)
            if row is None:
                return
            values: dict[str, object] = {"error": error[:_ERROR]}
            if not _asked(row, claim):
                values["due"] = self._now(connection) + seconds
            self._end(connection, claim, values)

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a claim; the case is not tried again until it changes or people ask for it.

        If either has happened since the claim, it is tried again.
        """
        with self._database.noting() as connection:
            row = self._held(connection, claim)
            if row is None:
                return
            values: dict[str, object] = {"error": error[:_ERROR]}
            if row["version"] == claim.version and not _asked(row, claim):
                values["state"] = FAILED
            self._end(connection, claim, values)

    def quiet(self, seconds: float) -> None:
        """Has no process send anything for some seconds, or longer if that was asked for before.

        `retry` ends it.
        """
        table = OUTBOX_POSITION.c
        with self._database.noting() as connection:
            until = self._now(connection) + seconds
            shorter = or_(table.quiet_until.is_(None), table.quiet_until < until)
            connection.execute(update(OUTBOX_POSITION).where(shorter).values(quiet_until=until))

    def release(self) -> None:
        """Ends all claims of this process."""
        with self._database.noting() as connection:
            mine = OUTBOX.c.lease_owner == self._owner
            connection.execute(update(OUTBOX).where(mine).values(_FREE))

    def _held(self, connection: Connection, claim: Claim) -> RowMapping | None:
        """The row of a claim; None if another process has the case now."""
        row = row_of(connection, claim.case_id)
        return row if row is not None and row["lease_owner"] == self._owner else None

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


def _asked(row: RowMapping, claim: Claim) -> bool:
    """Whether people have asked for a case since it was claimed, which sets `attempts` to 0."""
    return bool(row["attempts"] != claim.attempts)


def _servers(row: RowMapping, server: str, contents: bool) -> str:
    """The servers that have contents of a case: of the row, as a person may have changed it."""
    others = [each for each in row["servers"].splitlines() if each != server]
    return "\n".join([*others, server] if contents else others)


def _of_cases(after: int, until: int) -> tuple[ColumnElement[bool], ...]:
    """The condition that a record is about a case and in this part of the chain."""
    return RECORDS.c.number > after, RECORDS.c.number <= until, RECORDS.c.case_id.is_not(None)


def _position(connection: Connection, lock: bool = False) -> int | None:
    query = select(OUTBOX_POSITION.c.number)
    return connection.execute(query.with_for_update() if lock else query).scalar_one_or_none()
