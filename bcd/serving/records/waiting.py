"""Images of a case that wait for an answer: how many, and their end without one."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, func, select, update

from bcd.serving.records.tables import JOBS

WAITING = JOBS.c.failure.is_(None)


def count_waiting(connection: Connection, case_ids: Sequence[str]) -> dict[str, int]:
    """The number of images that wait for an answer, of each case that has some."""
    query = (
        select(JOBS.c.case_id, func.count())
        .where(JOBS.c.case_id.in_(case_ids), WAITING)
        .group_by(JOBS.c.case_id)
    )
    return {str(case_id): int(count) for case_id, count in connection.execute(query)}


def give_up(connection: Connection, which: ColumnElement[bool], why: str) -> None:
    """Ends the wait of images: their bytes and names are removed, and the reason stays.

    Args:
        connection: In a transaction that writes.
        which: Condition on `JOBS`.
        why: Told to whoever asks.
    """
    gone = {"image": None, "stored": None, "key_id": "", "lease_owner": None, "failure": why}
    connection.execute(update(JOBS).where(WAITING, which).values(gone))


def still_wait(count: int) -> str:
    """Says that so many images still wait for an answer."""
    return f"{count} image{' still waits' if count == 1 else 's still wait'} for an answer."
