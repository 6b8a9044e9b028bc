"""What the tables beside the chain must hold, and comparison with what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from bcd.serving.records.chain import Record, text_hash
from bcd.serving.records.replay import (
    ANSWERED,
    ERASURE,
    EXPIRED,
    MODEL,
    OPENED,
    REVIEWED,
    CaseRow,
    answer_row,
    model_values,
)
from bcd.serving.records.tables import CASES, HEAD, IMAGE_CONTENTS, MODELS

Row = Mapping[str, Any]
_WAITING_CLOSED = (
    "SELECT jobs.id FROM jobs JOIN cases ON cases.id = jobs.case_id "
    "WHERE jobs.failure IS NULL AND cases.status <> 'open'"
)


def differing(expected: Row, found: Row) -> list[str]:
    """Names of columns whose values differ, also in type."""
    return [
        name
        for name, value in found.items()
        if name not in expected
        or type(value) is not type(expected[name])
        or value != expected[name]
    ]


class Expected:
    """Follows the chain and collects what the other tables must hold.

    Attributes:
        head: Row of the table `head`.
        cases: Rows of the table `cases`.
        models: Rows of the table `models` by sha256.
        contents: Rows of the table `image_contents` by id, with the sha256 of their bytes.
        erased: Erased cases, each with the number of the record of its erasure.
        images: Number of images of cases.
    """

    def __init__(self) -> None:
        self.head: Row = {}
        self.cases: dict[str, CaseRow] = {}
        self.models: dict[str, Row] = {}
        self.contents: dict[str, dict[str, Any]] = {}
        self.erased: dict[str, int] = {}
        self.images = 0
        self._findings: dict[str, str] = {}  # by image, as the chain says
        self._shown: dict[str, Any] = {}  # by image, as the table `answers` says
        self._missing: list[tuple[int, str]] = []  # records without their text, and their cases
        self._present: list[tuple[int, str]] = []  # records with it

    def follow(self, record: Record, typed: Row | None, answer: Row | None) -> Iterator[str]:
        """Takes in a record; yields what is wrong with its text and answer.

        Args:
            record: The next one.
            typed: Its row in `texts`.
            answer: Its row in `answers`.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: Its payload makes no sense.
        """
        facts, case_id = record.facts, record.case_id or ""
        yield from self._text(record, facts.get("text", ""), typed)
        yield from self._answer(record, answer)
        if record.kind == MODEL:
            values = model_values(record.number, facts)
            self.models[str(values["sha256"])] = values
        elif record.kind == OPENED:
            self.cases[case_id] = CaseRow.opened(
                case_id, record.number, record.time, record.user_name, record.site, facts
            )
        elif case_id:
            if record.site != self.cases[case_id].site:
                yield f"record {record.number}: of another site than its case"
            self.cases[case_id].follow(record.number, record.kind, record.user_name)
        if record.kind == ANSWERED and record.image_id:
            self.images += 1
            if "stored" in facts:
                self.contents[record.image_id] = {
                    "case_id": case_id, "time": record.time, "key_id": facts["key"],
                    "sha256": facts["stored"],
                }  # fmt: skip
        elif record.kind == REVIEWED:
            self._findings[str(record.image_id)] = facts["finding"]
        elif record.kind == EXPIRED:
            for image_id in facts["images"]:
                del self.contents[image_id]
        elif record.kind == ERASURE:
            self.erased[case_id] = record.number
            gone = [name for name, row in self.contents.items() if row["case_id"] == case_id]
            for image_id in gone:
                del self.contents[image_id]

    def _text(self, record: Record, expected: str, typed: Row | None) -> Iterator[str]:
        where = f"table texts, record {record.number}"
        if typed is None:
            if expected:
                self._missing.append((record.number, record.case_id or ""))
            return
        self._present.append((record.number, record.case_id or ""))
        if typed["case_id"] != record.case_id:
            yield f"{where}: column case_id differs from the chain"
        try:
            found = text_hash(typed["salt"], typed["text"])
        except (TypeError, ValueError, AttributeError):
            found = "unreadable"
        if found != expected:
            yield f"{where}: changed: the chain has the hash of another text or salt"

    def _answer(self, record: Record, answer: Row | None) -> Iterator[str]:
        where = f"table answers, record {record.number}"
        if record.kind != ANSWERED:
            if answer is not None:
                yield f"{where}: the chain has no answer there"
            return
        if answer is None:
            yield f"{where}: missing"
            return
        expected = answer_row(record)
        if answer["finding"] is not None:
            self._shown[str(record.image_id)] = answer["finding"]
            expected.update(waiting=0, finding=answer["finding"])  # compared at the end
        for name in differing(expected, answer):
            yield f"{where}: column {name} differs from the chain"

    def compare(self, connection: Connection) -> Iterator[str]:
        """Yields in which rows the other tables differ from the chain."""
        yield from self._erasures()
        for image_id in sorted({*self._findings, *self._shown}):
            if self._findings.get(image_id) != self._shown.get(image_id):
                yield f"table answers, image {image_id}: column finding differs from the chain"
        for table in ("texts", "answers"):
            query = f"SELECT record FROM {table} WHERE record NOT IN (SELECT number FROM records)"
            for number in connection.scalars(text(query)):
                yield f"table {table}, record {number}: not in the chain"
        cases = map(vars, self.cases.values())
        for each, rows in ((HEAD, [self.head]), (MODELS, self.models.values()), (CASES, cases)):
            yield from compare_rows(connection, each.name, each.c.keys(), rows)
        yield from self._contents(connection)
        for job_id in connection.scalars(text(_WAITING_CLOSED)):
            yield f"table jobs, image {job_id}: waits for an answer, but its case is closed"

    def _erasures(self) -> Iterator[str]:
        for number, case_id in self._missing:
            if self.erased.get(case_id, 0) <= number:
                yield f"table texts, record {number}: missing, but the case was not erased"
        for number, case_id in self._present:
            if self.erased.get(case_id, 0) > number:
                yield f"table texts, record {number}: still there, but the case was erased"

    def _contents(self, connection: Connection) -> Iterator[str]:
        names = ", ".join(IMAGE_CONTENTS.c.keys())
        query = text(f"SELECT {names} FROM image_contents").execution_options(yield_per=20)
        seen = set()
        for values in connection.execute(query).mappings():
            image_id, where = (
                values["image_id"],
                f"table image_contents, image {values['image_id']}",
            )
            seen.add(image_id)
            if image_id not in self.contents:
                yield f"{where}: should not be there"
                continue
            stored = values["stored"]
            data = stored if isinstance(stored, bytes) else str(stored).encode()
            found = {name: values[name] for name in ("case_id", "time", "key_id")}
            found["sha256"] = hashlib.sha256(data).hexdigest()
            for name in differing(self.contents[image_id], found):
                name = "stored" if name == "sha256" else name
                yield f"{where}: column {name} differs from the chain"
        for image_id in sorted(self.contents.keys() - seen):
            yield f"table image_contents, image {image_id}: missing"


def compare_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    expected: Iterable[Row],
    as_in_chain: Callable[[str, object], object] = lambda _, value: value,
) -> Iterator[str]:
    """Yields rows of a table that are missing, too many or different.

    Args:
        connection: To the database.
        table: Its name.
        columns: That are compared; the first one tells rows apart.
        expected: Its rows as the chain says.
        as_in_chain: From a column's name and value to what the chain has of it.
    """
    key = columns[0]
    left = {row[key]: row for row in expected}
    query = text(f"SELECT {', '.join(columns)} FROM {table}")
    for row in connection.execute(query).mappings():
        where = f"table {table}, row {row[key]}"
        wanted = left.pop(row[key], None)
        if wanted is None:
            yield f"{where}: not in the chain"
            continue
        for name in differing(wanted, {each: as_in_chain(each, row[each]) for each in row}):
            yield f"{where}: column {name} differs from the chain"
    for name in left:
        yield f"table {table}, row {name}: missing"
