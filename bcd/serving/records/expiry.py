"""Removal of kept images after their retention time."""

from __future__ import annotations

import time
from collections import defaultdict

from sqlalchemy import delete, select

from bcd.serving.records.chain import Ledger
from bcd.serving.records.changes import case_row, save
from bcd.serving.records.replay import EXPIRED
from bcd.serving.records.tables import IMAGE_CONTENTS

_DAY = 86400.0  # seconds


def expire(ledger: Ledger, user: str, days: float) -> list[str]:
    """Removes kept images that are older, and records which.

    Args:
        ledger: To append to.
        user: Who asks for it.
        days: Age after which images are removed.

    Returns:
        The ids of the images.
    """
    table = IMAGE_CONTENTS.c
    old = table.time < time.time() - days * _DAY
    found: defaultdict[str, list[str]] = defaultdict(list)
    query = select(table.case_id, table.image_id).where(old).order_by(table.time)
    for case_id, image_id in ledger.connection.execute(query):
        found[case_id].append(image_id)
    if found:
        ledger.connection.execute(delete(IMAGE_CONTENTS).where(old))
    for case_id, images in found.items():
        row = case_row(ledger, case_id)
        number, _ = ledger.append(user, EXPIRED, {"images": images}, case_id, site=row.site)
        row.follow(number, EXPIRED, user)
        save(ledger, row)
    return [image for images in found.values() for image in images]
