"""The chain: every record holds the hash of the one before it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, NestedTransaction, Table, insert, select, update

from bcd.serving.errors import RequestError
from bcd.serving.records.tables import ANSWERS, HEAD, RECORDS, TEXTS
from bcd.storage import digest, plain_json

GENESIS = "0" * 64  # what the first record holds as the hash of the one before it

# Made once, as making them takes longer than what they are used for.
_INSERTS = {table: insert(table) for table in (RECORDS, TEXTS, ANSWERS)}
_LOCK_HEAD = select(HEAD.c.number, HEAD.c.hash).where(HEAD.c.id == 1).with_for_update()
_MOVE_HEAD = update(HEAD).where(HEAD.c.id == 1)
_HASHED = json.JSONEncoder(default=repr)
_CANONICAL = json.JSONEncoder(sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Record:
    """A row of `records`.

    Attributes:
        number: From 1, without gaps.
        time: Seconds since 1970, UTC.
        user_name: Who did it.
        site: Of the case or the user, else the server's own; empty if it has no name.
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
    site: str
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
    return digest(_HASHED.encode([number, *rest]))


def text_hash(salt: str, text: str) -> str:
    """What the chain holds instead of a text that a person typed."""
    return digest(json.dumps([salt, text]))


def clean_text(text: str) -> str:
    """A text that both databases can hold: no NUL, no lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def canonical_json(facts: Mapping[str, object]) -> str:
    """JSON of a payload, in ASCII with sorted keys; numbers that JSON does not know are null."""
    try:
        return _CANONICAL.encode(facts)
    except ValueError:  # of such a number
        return plain_json(facts)


class Ledger:
    """Appends records within a transaction, which holds the lock on the chain.

    Args:
        connection: In a transaction that may write.
        models: sha256 of models that are recorded already.

    Attributes:
        number: Of the last record.
        hash: Of the last record.
        models: sha256 of models that are known to be recorded.
    """

    def __init__(self, connection: Connection, models: frozenset[str] = frozenset()) -> None:
        self._connection = connection
        self.number, self.hash = connection.execute(_LOCK_HEAD).one()
        self.models = models
        self._rows: dict[Table, list[dict[str, object]]] = {table: [] for table in _INSERTS}
        self._savepoint: NestedTransaction | None = None
        self._earlier: dict[Table, int] | None = None  # rows that wait of earlier changes

    @property
    def connection(self) -> Connection:
        """The transaction, in which everything of earlier changes can be read."""
        if self._earlier is not None and self._savepoint is None:
            for table, count in self._earlier.items():
                self._insert(table, count)
            self._savepoint = self._connection.begin_nested()
        return self._connection

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Undoes what was done in the block if it raises a `RequestError`.

        Only a change that uses `connection` needs a savepoint of the database. After any other
        error, the transaction as a whole has to be rolled back.
        """
        before = self.number, self.hash, self.models
        self._earlier = {table: len(rows) for table, rows in self._rows.items()}
        try:
            yield
            if self._savepoint is not None:
                self.flush()
                self._savepoint.commit()
        except RequestError:
            if self._savepoint is not None:
                self._savepoint.rollback()
            for table, rows in self._rows.items():
                del rows[0 if self._savepoint is not None else self._earlier[table] :]
            self.number, self.hash, self.models = before
            raise
        finally:
            self._savepoint = self._earlier = None

    def append(
        self,
        user: str,
        kind: str,
        payload: Mapping[str, object],
        case_id: str | None = None,
        image_id: str | None = None,
        text: str | None = None,
        site: str = "",
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
            site: Of the case or the user, else the server's own.

        Returns:
            Its number and time.
        """
        number, now, facts = self.number + 1, time.time(), dict(payload)
        if text is not None:
            facts["text"] = self._keep_text(number, case_id, clean_text(text))
        row = (
            number, now, clean_text(user), site, kind, case_id, image_id, canonical_json(facts),
            self.hash,
        )  # fmt: skip
        record = Record(*row, record_hash(*row))
        self._rows[RECORDS].append(vars(record))
        self.number, self.hash = number, record.hash
        return number, now

    def add_answer(self, row: dict[str, object]) -> None:
        """Adds a row of the table `answers`; `flush` inserts it."""
        self._rows[ANSWERS].append(row)

    def _keep_text(self, number: int, case_id: str | None, text: str) -> str:
        if not text:
            return ""
        salt = secrets.token_hex(16)
        self._rows[TEXTS].append({"record": number, "case_id": case_id, "salt": salt, "text": text})
        return text_hash(salt, text)

    def flush(self) -> None:
        """Inserts what was appended, so that the transaction can read it."""
        for table, rows in self._rows.items():
            self._insert(table, len(rows))

    def _insert(self, table: Table, count: int) -> None:
        """Inserts the first rows that wait."""
        if count:
            self._connection.execute(_INSERTS[table], self._rows[table][:count])
            del self._rows[table][:count]

    def finish(self) -> None:
        """Writes the last record's number and hash, before the commit."""
        self.flush()
        self._connection.execute(_MOVE_HEAD, {"number": self.number, "hash": self.hash})
