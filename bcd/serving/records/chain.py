"""The chain: every record holds the hash of the one before it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from bcd.serving.records.tables import HEAD, RECORDS, TEXTS
from bcd.storage import digest, plain_json

GENESIS = "0" * 64  # what the first record holds as the hash of the one before it


@dataclass(frozen=True)
class Record:
    """A row of `records`.

    Attributes:
        number: From 1, without gaps.
        time: Seconds since 1970, UTC.
        user_name: Who did it.
        kind: What was done.
        case_id: The case that it is about.
        image_id: The image that it is about.
        payload: Canonical JSON.
        previous: Hash of the record before it.
        hash: sha256 over all of the above.
    """

    number: int
    time: float
    user_name: str
    kind: str
    case_id: str | None
    image_id: str | None
    payload: str
    previous: str
    hash: str

    @property
    def facts(self) -> dict[str, Any]:
        """The payload."""
        found: dict[str, Any] = json.loads(self.payload)
        return found


def record_hash(number: int, *rest: object) -> str:
    """sha256 of a record.

    Args:
        number: Of the record.
        rest: The other fields of `Record` in their order, without its own hash.
    """
    # JSON tells an integer from a float and null from a text. Bytes, which only a damaged
    # database returns, are written as Python shows them.
    return digest(json.dumps([number, *rest], default=repr))


def text_hash(salt: str, text: str) -> str:
    """What the chain holds instead of a text that a person typed."""
    return digest(json.dumps([salt, text]))


def clean_text(text: str) -> str:
    """A text that both databases can hold: no NUL, no lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def as_read(facts: Mapping[str, object]) -> dict[str, Any]:
    """A payload as it will be read: JSON knows neither tuples nor an infinite number."""
    found: dict[str, Any] = json.loads(plain_json(facts))
    return found


class Ledger:
    """Appends records within a transaction, which holds the lock on the chain.

    Args:
        connection: In a transaction that may write.

    Attributes:
        number: Of the last record.
        hash: Of the last record.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        query = select(HEAD.c.number, HEAD.c.hash).where(HEAD.c.id == 1).with_for_update()
        self.number, self.hash = connection.execute(query).one()
        self._records: list[dict[str, object]] = []
        self._texts: list[dict[str, object]] = []

    def append(
        self,
        user: str,
        kind: str,
        payload: Mapping[str, object],
        case_id: str | None = None,
        image_id: str | None = None,
        text: str | None = None,
    ) -> tuple[int, float]:
        """Appends a record; `flush` inserts it.

        Args:
            user: Who did it.
            kind: What was done.
            payload: JSON values.
            case_id: The case that it is about.
            image_id: The image that it is about.
            text: What a person typed; the record gets its salted hash as `text`, empty if the
                text is empty.

        Returns:
            Its number and time.
        """
        number, now, facts = self.number + 1, time.time(), dict(payload)
        if text is not None:
            facts["text"] = self._keep_text(number, case_id, clean_text(text))
        row = (number, now, clean_text(user), kind, case_id, image_id, plain_json(facts), self.hash)
        record = Record(*row, record_hash(*row))
        self._records.append(vars(record))
        self.number, self.hash = number, record.hash
        return number, now

    def _keep_text(self, number: int, case_id: str | None, text: str) -> str:
        if not text:
            return ""
        salt = secrets.token_hex(16)
        self._texts.append({"record": number, "case_id": case_id, "salt": salt, "text": text})
        return text_hash(salt, text)

    def flush(self) -> None:
        """Inserts what was appended, so that the transaction can read it."""
        for table, rows in ((RECORDS, self._records), (TEXTS, self._texts)):
            if rows:
                self.connection.execute(insert(table), rows)
        self._records, self._texts = [], []

    def back_to(self, number: int, head: str) -> None:
        """Forgets what was appended since then; the caller rolls the inserts back."""
        self._records, self._texts = [], []
        self.number, self.hash = number, head

    def finish(self) -> None:
        """Writes the last record's number and hash, before the commit."""
        self.flush()
        values = {"number": self.number, "hash": self.hash}
        self.connection.execute(update(HEAD).where(HEAD.c.id == 1).values(values))
