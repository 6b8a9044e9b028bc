"""Identifiers of cases and images."""

from __future__ import annotations

import re
import secrets

from bcd.serving.errors import NotFoundError

_ID = re.compile("[0-9a-f]{16}")


def new_id() -> str:
    """A random identifier for a case or an image."""
    return secrets.token_hex(8)


def check_ids(*ids: str) -> None:
    """Refuses what cannot be an id without looking it up: a database may not take any text.

    Raises:
        NotFoundError: One of them cannot be the id of a case or image.
    """
    if not all(map(_ID.fullmatch, ids)):
        raise NotFoundError("There is no such case or image.")
