"""What pages and the dashboard read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select

from bcd.serving.answers import ModelIdentity
from bcd.serving.errors import NotFoundError
from bcd.serving.records.cases import Case, CaseSummary
from bcd.serving.records.chain import Record
from bcd.serving.records.replay import REVIEWED, CaseHistory, CaseRow, model_from_row
from bcd.serving.records.tables import ANSWERS, CASES, MODELS, RECORDS, TEXTS
from bcd.serving.records.waiting import count_waiting


@dataclass(frozen=True)
class AnswerRow:
    """An answer, for the dashboard.

    Attributes:
        time: Seconds since 1970, UTC.
        model_sha256: Of the model that answered.
        predicted: The most probable class; None if there is no answer.
        refer: Whether a person must look at it.
        reasons: All reasons to refer it.
        ood_score: Above 1 is out of distribution; None if there is no answer.
        finding: What a person found; None if nobody has reviewed it.
        case_id: Of its case; None if it is of no case.
        record: Number of its record; a later answer has a higher one.
        site: Where it was given.
        threshold: Of the site; None for the policy's.
        match: sha256 of how the image was matched; empty if it was not.
    """

    time: float
    model_sha256: str
    predicted: str | None
    refer: bool
    reasons: tuple[str, ...]
    ood_score: float | None
    finding: str | None
    case_id: str | None
    record: int
    site: str
    threshold: float | None
    match: str


def read_case(connection: Connection, case_id: str) -> Case:
    """A case with its images.

    Raises:
        NotFoundError: There is no such case.
    """
    query = select(CASES).where(CASES.c.id == case_id)
    found = connection.execute(query).mappings().one_or_none()
    if found is None:
        raise NotFoundError("There is no such case.")
    row, history = CaseRow(**found), CaseHistory()
    records = (
        select(*RECORDS.c, TEXTS.c.text)
        .outerjoin(TEXTS, TEXTS.c.record == RECORDS.c.number)
        .where(RECORDS.c.case_id == case_id)
        .order_by(RECORDS.c.number)
    )
    for *values, text in connection.execute(records):
        history.follow(Record(*values), text)
    model = read_model(connection, row.model_sha256)
    assert model is not None  # recorded before the case
    queued = count_waiting(connection, [case_id]).get(case_id, 0)
    return replace(history.case(row, model), queued=queued)


def read_version(connection: Connection, case: Case) -> str:
    """Number and hash of the last record about a case as it was read, `<number>:<hash>`."""
    query = select(RECORDS.c.hash).where(RECORDS.c.number == case.version)
    return f"{case.version}:{connection.execute(query).scalar_one()}"


def read_cases(
    connection: Connection, limit: int, before: float | None, status: str | None, site: str | None
) -> list[CaseSummary]:
    """Cases, the last opened first; see `Records.cases`."""
    table = CASES.c
    query = (
        select(CASES, TEXTS.c.text)
        .outerjoin(TEXTS, TEXTS.c.record == table.record)
        .order_by(table.opened_at.desc(), table.record.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(table.opened_at < before)
    if status is not None:
        query = query.where(table.status == status)
    if site is not None:
        query = query.where(table.site == site)
    rows = [(CaseRow(*values), label) for *values, label in connection.execute(query)]
    counts = _counts(connection, [row.id for row, _ in rows])
    queued = count_waiting(connection, [row.id for row, _ in rows])
    return [
        CaseSummary(
            row.id, label or "", row.opened_by, row.opened_at, row.status,
            *counts.get(row.id, (0, 0)), len(row.signers), row.signatures_needed, row.site,
            queued.get(row.id, 0),
        )
        for row, label in rows
    ]  # fmt: skip


def _counts(connection: Connection, case_ids: list[str]) -> dict[str, tuple[int, int]]:
    """The number of images of each case, and of those that wait."""
    table = ANSWERS.c
    query = (
        select(table.case_id, func.count(), func.sum(table.waiting))
        .where(table.case_id.in_(case_ids))
        .group_by(table.case_id)
    )
    return {str(case_id): (images, waits) for case_id, images, waits in connection.execute(query)}


def read_site(connection: Connection, case_id: str) -> str:
    """Whose case it is.

    Raises:
        NotFoundError: There is no such case.
    """
    found = connection.execute(select(CASES.c.site).where(CASES.c.id == case_id)).scalar()
    if found is None:
        raise NotFoundError("There is no such case.")
    return str(found)


def read_stored(connection: Connection, case_id: str, image_id: str) -> tuple[str, str | None]:
    """The status of a case and the sha256 of what is stored of one of its images, if anything was.

    Raises:
        NotFoundError: There is no such image in the case.
    """
    table = ANSWERS.c
    query = (
        select(CASES.c.status, RECORDS.c.payload)
        .join(ANSWERS, table.case_id == CASES.c.id)
        .join(RECORDS, RECORDS.c.number == table.record)
        .where(table.image_id == image_id, table.case_id == case_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("There is no such image in this case.")
    return row[0], json.loads(row[1]).get("stored")


def read_uploads(
    connection: Connection, case_id: str, uploads: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """The id and the sha256 of the image of each of these uploads that a case has."""
    table, wanted = ANSWERS.c, [upload for upload in uploads if upload]
    if not wanted:
        return {}
    query = (
        select(table.upload, table.image_id, RECORDS.c.payload)
        .join(RECORDS, RECORDS.c.number == table.record)
        .where(table.case_id == case_id, table.upload.in_(wanted))
    )
    return {
        upload: (image_id, json.loads(payload)["answer"]["sha256"])
        for upload, image_id, payload in connection.execute(query)
    }


def count_reviews(connection: Connection, case_id: str, image_id: str) -> int:
    """The number of reviews of an image."""
    record = RECORDS.c
    query = select(func.count()).where(
        record.case_id == case_id, record.image_id == image_id, record.kind == REVIEWED
    )
    return connection.execute(query).scalar_one()


def read_model(connection: Connection, sha256: str) -> ModelIdentity | None:
    """A model that has answered; None if it has not."""
    query = select(MODELS).where(MODELS.c.sha256 == sha256)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else model_from_row(dict(row))


def read_answers(connection: Connection, since: float, after: int) -> Iterator[AnswerRow]:
    """Answers in the order in which they were recorded; see `Records.statistics`."""
    table = ANSWERS.c
    query = (
        select(
            table.time, table.model_sha256, table.predicted, table.refer, table.reasons,
            table.ood_score, table.finding, table.case_id, table.record, table.site,
            table.threshold, table.match_sha256,
        )
        .where(table.time >= since, table.record > after)
        .order_by(table.record)
        .execution_options(yield_per=1000)
    )  # fmt: skip
    for time, model, predicted, refer, reasons, *rest in connection.execute(query):
        yield AnswerRow(time, model, predicted, bool(refer), tuple(json.loads(reasons)), *rest)
