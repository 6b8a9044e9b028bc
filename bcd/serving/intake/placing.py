"""Which case the images of a folder or study belong to, and what became of them.

A folder or study is known by a hash only. Its images go into one case as long as that takes
images; later ones go into a further case. Which server delivers an image makes no difference: each
is in one case, and a case's images are answered by servers with its model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, func, insert, select

from bcd.serving import words
from bcd.serving.errors import BusyError, ConflictError, TooLargeError
from bcd.serving.jobs.adding import add_rows, job_rows
from bcd.serving.records import changes
from bcd.serving.records.cases import ERASED, OPEN, NewImage
from bcd.serving.records.chain import Ledger
from bcd.serving.records.database import reading
from bcd.serving.records.ids import new_id
from bcd.serving.records.queries import read_uploads
from bcd.serving.records.tables import ANSWERS, CASES, INTAKE, JOBS, RECORDS
from bcd.serving.records.waiting import WAITING, count_waiting

if TYPE_CHECKING:
    from bcd.serving.services import Services

_LABEL = 200  # characters, as on the pages
_AT_ONCE = 500  # values in one query

State = Literal["waiting", "elsewhere", "answered", "failed", "again"]


@dataclass(frozen=True)
class Origin:
    """Where images come from.

    Attributes:
        user: Who submits them, as recorded; no user's name, as it has a space.
        site: Of the sender.
        key: Hash of the folder's name or the study's UID.
        label: Of the case.
    """

    user: str
    site: str
    key: str
    label: str

    @classmethod
    def of(cls, user: str, site: str, name: bytes, label: str) -> Origin:
        """The origin with this name, which stays in no table."""
        key = hashlib.sha256(json.dumps([user, site, name.hex()]).encode()).hexdigest()
        return cls(user, site, key, label)


@dataclass(frozen=True)
class Outcome:
    """What became of an upload.

    Attributes:
        state: `elsewhere`: it waits for a server with the model of its case, which is not this one.
            `again`: it was not answered, and its origin's next case would take it.
        why: There is no answer; empty if there is.
    """

    state: State
    why: str = ""


@dataclass(frozen=True)
class Delivery:
    """Images that are in the queue of a case, or answered there.

    Attributes:
        case_id: Of the case.
        known: sha256 of those that the case had before, by upload.
    """

    case_id: str
    known: Mapping[str, str]


def deliver(services: Services, origin: Origin, images: Sequence[NewImage]) -> Delivery:
    """Puts images into the queue of a case of their origin; call it in a thread.

    It is the case that has one of them already, of whatever model; else the last one that is open,
    of the loaded model and has room; else a new one. If a case has all of them, or another image
    under the upload of one, nothing is added. It is found in the transaction that adds them, so
    that servers that deliver the same images at the same time never put them into two cases.

    Args:
        services: Of the server.
        origin: Of the images.
        images: Each with an upload.

    Raises:
        BusyError: Their case has some of them, and does not take the others.
        StorageFullError, UnavailableError: The database is full or gone.
        TooLargeError: An image is too large, or there are more of them than a case may have.
    """
    most = services.cfg.limits.case_images
    if len(images) > most:
        raise TooLargeError(f"A case takes at most {most} images.")
    with reading(services.records.engine, None) as connection:
        found = _known(connection, origin, images)
    if found is not None and _done(found, images):
        return found
    rows = job_rows(services, origin.user, images)

    def change(ledger: Ledger) -> Delivery:
        known = _known(ledger.connection, origin, images)
        if known is not None and _done(known, images):
            return known
        if known is None:
            known = Delivery(_place(ledger, services, origin, len(images)), {})
        add_rows(ledger, known.case_id, services.engine.identity.sha256, rows, most)
        return known

    try:
        return services.records.change(change)
    except (ConflictError, TooLargeError):
        why = "The case that has some of its images does not take the others: try again later."
        raise BusyError(why, retry_after=1) from None


def _known(connection: Connection, origin: Origin, images: Sequence[NewImage]) -> Delivery | None:
    """The case of an origin that has some of the images; None if there is none."""
    uploads = [image.upload for image in images]
    for row in _cases(connection, origin):
        if known := _hashes(connection, row.id, uploads):
            return Delivery(row.id, known)
    return None


def _done(found: Delivery, images: Sequence[NewImage]) -> bool:
    """Whether nothing is to be added: all are there, or another image under the upload of one."""
    known = found.known
    changed = any(known.get(one.upload, one.sha256) != one.sha256 for one in images)
    return changed or all(one.upload in known for one in images)


def _cases(connection: Connection, origin: Origin) -> Sequence[Any]:
    """The cases of an origin, the last one first."""
    query = (
        select(CASES.c.id, CASES.c.status, CASES.c.model_sha256, INTAKE.c.number)
        .join(INTAKE, INTAKE.c.case_id == CASES.c.id)
        .where(INTAKE.c.key == origin.key)
        .order_by(INTAKE.c.number.desc())
    )
    return connection.execute(query).all()


def _place(ledger: Ledger, services: Services, origin: Origin, images: int) -> str:
    """The case for new images of an origin, which is opened if there is none."""
    rows = _cases(ledger.connection, origin)
    for row in rows:
        if _takes(ledger.connection, services, row, images):
            return str(row.id)
    case_id, needed = new_id(), services.cfg.cases.signatures
    number = rows[0].number + 1 if rows else 1  # cases that were erased in between are not here
    further = f" ({number})" if rows else ""
    label = words.file_name(origin.label, _LABEL - len(further)) + further
    identity = services.engine.identity
    changes.open_case(ledger, origin.user, case_id, label, identity, needed, origin.site)
    row = {"key": origin.key, "number": number, "case_id": case_id}
    ledger.connection.execute(insert(INTAKE), [row])
    return case_id


def _takes(connection: Connection, services: Services, row: Any, images: int) -> bool:
    """Whether a case takes further images."""
    if row.status != OPEN or row.model_sha256 != services.engine.identity.sha256:
        return False
    answered = select(func.count()).where(ANSWERS.c.case_id == row.id)
    held = connection.execute(answered).scalar_one()
    held += count_waiting(connection, [row.id]).get(row.id, 0)
    return bool(held + images <= services.cfg.limits.case_images)


def find(services: Services, origin: Origin, upload: str) -> str:
    """The case of an origin that has an upload, answered or waiting; empty if there is none.

    Call it in a thread. It costs less than `deliver`, and the image need not be decoded for it.

    Raises:
        UnavailableError: The database is gone.
    """
    with reading(services.records.engine, None) as connection:
        for row in _cases(connection, origin):
            if _hashes(connection, row.id, [upload]):
                return str(row.id)
    return ""


def _hashes(connection: Connection, case_id: str, uploads: Sequence[str]) -> dict[str, str]:
    """sha256 of the image of each of these uploads that a case has, answered or waiting."""
    found: dict[str, str] = {}
    for some in _chunks(uploads):
        jobs = select(JOBS.c.upload, JOBS.c.sha256).where(
            JOBS.c.case_id == case_id, JOBS.c.upload.in_(some), WAITING
        )
        found |= {str(upload): str(sha256) for upload, sha256 in connection.execute(jobs)}
        answered = read_uploads(connection, case_id, some)
        found |= {upload: sha256 for upload, (_, sha256) in answered.items()}
    return found


def outcomes(services: Services, case_id: str, uploads: Sequence[str]) -> dict[str, Outcome]:
    """What became of uploads of one case; call it in a thread.

    Raises:
        UnavailableError: The database is gone.
    """
    with reading(services.records.engine, None) as connection:
        query = select(CASES.c.status, CASES.c.model_sha256).where(CASES.c.id == case_id)
        status, model = connection.execute(query).one()
        own = model == services.engine.identity.sha256
        found: dict[str, Outcome] = {}
        # Jobs first, as one transaction records the answer and removes the job.
        for some in _chunks(uploads):
            jobs = select(JOBS.c.upload, JOBS.c.failure).where(
                JOBS.c.case_id == case_id, JOBS.c.upload.in_(some)
            )
            for upload, failure in connection.execute(jobs):
                waits: State = "waiting" if own else "elsewhere"
                found[upload] = Outcome(waits if failure is None else "failed", failure or "")
        for some in _chunks(uploads):
            table = ANSWERS.c
            answers = select(table.upload, table.predicted, RECORDS.c.payload).where(
                table.case_id == case_id, table.upload.in_(some), RECORDS.c.number == table.record
            )
            for upload, predicted, payload in connection.execute(answers):
                why = "" if predicted is not None else _why(payload)
                found[upload] = Outcome("answered", why)
    if status == ERASED:
        lost = Outcome("failed", "Its case was erased before it was answered.")
    else:  # failed because the case takes no more images, or not there, which should not be
        lost = Outcome("again")
    usable = status == OPEN and own
    return {
        upload: lost if one is None or (one.state == "failed" and not usable) else one
        for upload in uploads
        for one in (found.get(upload),)
    }


def _why(payload: str) -> str:
    """Why an image has no answer."""
    answer = json.loads(payload)["answer"]
    why = " ".join(map(words.reason, answer["reasons"]))
    return f"{why} ({answer['error']})" if answer["error"] else why


def _chunks(uploads: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(uploads)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
