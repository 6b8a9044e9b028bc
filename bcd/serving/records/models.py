"""Which model versions answered what, for change control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from bcd.serving.records.tables import ANSWERS, CASES, MODELS, RECORDS


@dataclass(frozen=True)
class ModelUse:
    """A model version and what it answered.

    Attributes:
        name: As configured, or of its file.
        sha256: Of its file.
        card_sha256: Of its card, which a checkpoint and the files exported from it share.
        version: Of bcd that wrote the file.
        since: When it first answered or a case was opened with it, seconds since 1970, UTC.
        until: When it last answered; None if it has answered nothing.
        answers: Number of images that it answered.
        cases: Number of cases that were opened with it.
        open: Number of these that are open.
    """

    name: str
    sha256: str
    card_sha256: str
    version: str
    since: float
    until: float | None
    answers: int
    cases: int
    open: int


@dataclass(frozen=True)
class CaseModel:
    """A case and the model that answers its images.

    Attributes:
        id: Of the case.
        site: Whose case it is.
        opened_at: Seconds since 1970, UTC.
        status: Of the case.
        images: Number of its images.
        model: Name of the model.
        sha256: Of the model's file.
    """

    id: str
    site: str
    opened_at: float
    status: str
    images: int
    model: str
    sha256: str


def model_uses(connection: Connection) -> list[ModelUse]:
    """Every model version of the records, the first recorded first."""
    answered = {
        sha256: (count, until)
        for sha256, count, until in connection.execute(
            select(ANSWERS.c.model_sha256, func.count(), func.max(ANSWERS.c.time)).group_by(
                ANSWERS.c.model_sha256
            )
        )
    }
    cases: dict[str, dict[str, int]] = {}
    query = select(CASES.c.model_sha256, CASES.c.status, func.count())
    for sha256, status, count in connection.execute(
        query.group_by(CASES.c.model_sha256, CASES.c.status)
    ):
        cases.setdefault(sha256, {})[status] = count
    table = MODELS.c
    models = select(table.name, table.sha256, table.card_sha256, table.version, RECORDS.c.time)
    rows = connection.execute(
        models.join(RECORDS, RECORDS.c.number == table.record).order_by(table.record)
    )
    found = []
    for name, sha256, card, version, since in rows:
        count, until = answered.get(sha256, (0, None))
        own = cases.get(sha256, {})
        found.append(
            ModelUse(name, sha256, card, version, since, until, count, sum(own.values()),
                     own.get("open", 0))
        )  # fmt: skip
    return found


def case_models(connection: Connection) -> Iterator[CaseModel]:
    """Yields every case with its model version, in the order in which they were opened."""
    query = (
        select(
            CASES.c.id, CASES.c.site, CASES.c.opened_at, CASES.c.status,
            func.count(ANSWERS.c.record), MODELS.c.name, MODELS.c.sha256,
        )
        .join(MODELS, MODELS.c.sha256 == CASES.c.model_sha256)
        .outerjoin(ANSWERS, ANSWERS.c.case_id == CASES.c.id)
        .group_by(CASES.c.id, MODELS.c.sha256)
        .order_by(CASES.c.record)
    )  # fmt: skip
    for row in connection.execute(query):
        yield CaseModel(*row)
