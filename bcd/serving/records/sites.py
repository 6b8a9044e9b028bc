"""Which sites the records know."""

from __future__ import annotations

import json

from sqlalchemy import Connection, select

from bcd.serving.records.tables import CASES, RECORDS

STARTED = "server started"  # kind of record


def case_sites(connection: Connection) -> set[str]:
    """Names of sites that have cases; empty for those of a server that had not named its own."""
    return set(connection.scalars(select(CASES.c.site).distinct()))


def started_sites(connection: Connection) -> list[str] | None:
    """Names of the sites of the server that started last; None if none has."""
    record = RECORDS.c
    query = select(record.payload).where(record.kind == STARTED).order_by(record.number.desc())
    payload = connection.scalar(query.limit(1))
    return None if payload is None else list(json.loads(payload).get("sites", {}))
