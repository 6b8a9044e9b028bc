"""Verifies the records: the chain, and what every other table has from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from bcd.errors import BcdError, ConfigError
from bcd.serving.records.accounts import AccountRows
from bcd.serving.records.chain import GENESIS, Record, record_hash
from bcd.serving.records.database import check_connection, connect
from bcd.serving.records.expected import Expected
from bcd.serving.records.schema import is_older, schema_problems
from bcd.serving.records.tables import ANSWERS, RECORDS, TEXTS

_SHOWN = 100  # problems in a result
_HEAD = re.compile("([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Verified:
    """What a verification has found.

    Attributes:
        head: Number and hash of the last record, `<number>:<hash>`.
        records: Their number.
        cases: Their number.
        images: Of cases; their number.
        kept: Images whose bytes are in the database.
        erased: Cases that were erased.
        problems: One line each, at most 100; empty if the records are whole.
    """

    head: str
    records: int
    cases: int
    images: int
    kept: int
    erased: int
    problems: tuple[str, ...]


def verify(url: str, noted: str | None = None) -> Verified:
    """Verifies the records as of one moment, and changes nothing; the server may write meanwhile.

    Args:
        url: Of the database.
        noted: A head that was noted earlier, `<number>:<hash>`. It shows that nothing up to it was
            changed or cut off, which a chain cannot show by itself.

    Raises:
        BcdError: The database cannot be opened, or is of another version of bcd.
        ConfigError: The URL or `noted` is not valid.
    """
    match = _HEAD.fullmatch(noted or f"0:{GENESIS}")
    if match is None:
        raise ConfigError(f"--head {noted}: must be <number>:<hash>, as printed on reports")
    engine = connect(url, read_only=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _read_any_text)
    try:
        return _verify(engine, int(match[1]), match[2])
    finally:
        engine.dispose()


def _read_any_text(connection: Any, _: object) -> None:
    """Makes a changed byte that is no UTF-8 a difference instead of an error."""
    connection.text_factory = lambda data: data.decode("utf-8", "backslashreplace")


def _verify(engine: Engine, number: int, found: str) -> Verified:
    walk = _Walk(number, found)
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    check_connection(engine)
    try:
        with engine.connect().execution_options(**options) as connection, connection.begin():
            if is_older(connection):
                raise BcdError(
                    f"records: {engine.url.render_as_string(hide_password=True)}: of an older bcd: "
                    "start the server once, which migrates them"
                )
            walk.problems += schema_problems(connection)
            walk.records(connection)
            walk.problems += walk.expected.compare(connection)
            walk.problems += walk.accounts.compare(connection)
    except (SQLAlchemyError, UnicodeError) as error:  # SQLite quotes damaged bytes in its messages
        reason = " ".join(str(getattr(error, "orig", error)).split())
        walk.problems.append(f"the database cannot be read to its end: {reason}")
    expected = walk.expected
    return Verified(
        f"{walk.number}:{walk.hash}", walk.count, len(expected.cases), expected.images,
        len(expected.contents), len(expected.erased), tuple(walk.problems[:_SHOWN]),
    )  # fmt: skip


class _Walk:
    """Goes through the chain from its first record.

    Args:
        number: Of the noted head; 0 if none was noted.
        found: Hash of the noted head.
    """

    def __init__(self, number: int, found: str) -> None:
        self.number, self.hash, self.count = 0, GENESIS, 0
        self.problems: list[str] = []
        self.expected = Expected()
        self.accounts = AccountRows()
        self._noted = number, found

    def records(self, connection: Connection) -> None:
        """Checks all records with their texts and answers."""
        columns = [*RECORDS.c, *TEXTS.c, *ANSWERS.c]
        names = ", ".join(f"{column.table.name}.{column.name}" for column in columns)
        # As text: SQLAlchemy's types would hide some differences.
        query = text(
            f"SELECT {names} FROM records LEFT JOIN texts ON texts.record = records.number "
            "LEFT JOIN answers ON answers.record = records.number ORDER BY records.number"
        ).execution_options(yield_per=1000)
        first, second = len(RECORDS.c), len(RECORDS.c) + len(TEXTS.c)
        for row in connection.execute(query):
            record = Record(*row[:first])
            self._link(record)
            typed = _row(TEXTS.c.keys(), row[first:second])
            answer = _row(ANSWERS.c.keys(), row[second:])
            try:
                self.problems += self.expected.follow(record, typed, answer)
                self.accounts.follow(record)
            except (LookupError, TypeError, ValueError, AttributeError):
                self.problems.append(f"record {record.number}: its content makes no sense")
        self.expected.head = {"id": 1, "number": self.number, "hash": self.hash}
        self._end()

    def _link(self, record: Record) -> None:
        self.count += 1
        if record.number != self.number + 1:
            self.problems.append(f"record {self.number + 1}: missing; next is {record.number}")
        if record.previous != self.hash:
            self.problems.append(
                f"record {record.number}: does not follow the record before it (column previous)"
            )
        *fields, found = vars(record).values()
        if record_hash(*fields) != found:
            self.problems.append(f"record {record.number}: changed: its hash is of something else")
        self.number, self.hash = record.number, found
        if record.number == self._noted[0] and found != self._noted[1]:
            self.problems.append(
                f"record {record.number}: not the noted head: it or an earlier record was replaced"
            )

    def _end(self) -> None:
        if self.number < self._noted[0]:
            self.problems.append(
                f"record {self._noted[0]}: the noted head is missing: the chain ends at record "
                f"{self.number}"
            )


def _row(names: Sequence[str], values: Sequence[Any]) -> Mapping[str, Any] | None:
    """A row of a joined table; None if there is none."""
    return None if values[0] is None else dict(zip(names, values, strict=True))
