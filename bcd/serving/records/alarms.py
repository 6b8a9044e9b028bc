"""Alarms of monitoring in the records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import select

from bcd.serving.records.chain import Ledger
from bcd.serving.records.tables import RECORDS

ALARM = "alarm"  # kind of the records


def add_alarms(
    ledger: Ledger, user: str, alarms: Sequence[Mapping[str, object]]
) -> list[Mapping[str, object]]:
    """Records alarms of monitoring, but none twice, whichever process has seen them.

    Args:
        ledger: To append to.
        user: Who has seen them.
        alarms: JSON values; `model_sha256`, `site` and `last_record`, the number of the record with
            which its window ends, say which alarm it is.

    Returns:
        Those that were not recorded yet.
    """
    if not alarms:
        return []
    table = RECORDS.c
    first = min(int(str(alarm["last_record"])) for alarm in alarms)
    query = select(table.payload).where(table.number > first, table.kind == ALARM)
    known = [json.loads(payload) for payload in ledger.connection.scalars(query)]
    recorded = {(alarm["model_sha256"], alarm.get("last_record")) for alarm in known}
    new = [a for a in alarms if (a["model_sha256"], a["last_record"]) not in recorded]
    for alarm in new:
        ledger.append(user, ALARM, alarm, site=str(alarm.get("site", "")))
    return new
