"""Which case the images of a folder or study belong to, and what became of them.

A folder or study is known by a hash only. Its images go into one case as long as that takes
images; later ones go into a further case.
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
from bcd.serving.jobs.adding import add_all
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
_TRIES = 5  # to find a case that is not closed meanwhile

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
    """Puts images into the queue of their origin's case; call it in a thread.

    It is the case that has one of them already, else the last one if that is open, of the loaded
    model and has room, else a new one. If a case has all of them, or another image under the
    upload of one, nothing is added.

    Args:
        services: Of the server.
        origin: Of the images.
        images: Each with an upload.

    Raises:
        BusyError: The case is closed each time it is tried.
        StorageFullError, UnavailableError: The database is full or gone.
        TooLargeError: An image is too large, or there are more of them than a case may have.
    """
    limits = services.cfg.limits
    if len(images) > limits.case_images:
        raise TooLargeError(f"A case takes at most {limits.case_images} images.")
    if any(len(image.data) > limits.image_mb * 1e6 for image in images):
        raise TooLargeError(f"An image may have at most {limits.image_mb:g} MB.")
    uploads = [image.upload for image in images]
    for _ in range(_TRIES):
        case_id = _place(services, origin, uploads)
        known = _hashes(services, case_id, uploads)
        changed = any(known.get(one.upload, one.sha256) != one.sha256 for one in images)
        try:
            if len(known) < len(images) and not changed:
                add_all(services, origin.user, case_id, images)
            return Delivery(case_id, known)
        except (ConflictError, TooLargeError):  # just now signed, or filled by others
            continue
    raise BusyError("The case is being closed: try again later.", retry_after=1)


def _place(services: Services, origin: Origin, uploads: Sequence[str]) -> str:
    """The case for images of an origin, which is opened if there is none."""
    with reading(services.records.engine, None) as connection:
        found, _ = _choose(connection, services, origin, uploads)
    if found:
        return found
    return services.records.change(lambda ledger: _open(ledger, services, origin, uploads))


def _choose(
    connection: Connection, services: Services, origin: Origin, uploads: Sequence[str]
) -> tuple[str, int]:
    """The case, or an empty text, and the number of cases of the origin."""
    query = (
        select(CASES.c.id, CASES.c.status, CASES.c.model_sha256)
        .join(INTAKE, INTAKE.c.case_id == CASES.c.id)
        .where(INTAKE.c.key == origin.key)
        .order_by(INTAKE.c.number.desc())
    )
    rows = connection.execute(query).all()
    for row in rows:
        if _has(connection, row.id, uploads):
            return row.id, len(rows)
    if not rows or not _takes(connection, services, rows[0], len(uploads)):
        return "", len(rows)
    return rows[0].id, len(rows)


def _has(connection: Connection, case_id: str, uploads: Sequence[str]) -> bool:
    """Whether one of the uploads is answered in a case, or waits there."""
    for some in _chunks(uploads):
        for table, further in ((ANSWERS, ()), (JOBS, (WAITING,))):
            query = select(table.c.upload).where(
                table.c.case_id == case_id, table.c.upload.in_(some), *further
            )
            if connection.execute(query.limit(1)).first() is not None:
                return True
    return False


def _takes(connection: Connection, services: Services, row: Any, images: int) -> bool:
    """Whether a case takes further images."""
    if row.status != OPEN or row.model_sha256 != services.engine.identity.sha256:
        return False
    answered = select(func.count()).where(ANSWERS.c.case_id == row.id)
    held = connection.execute(answered).scalar_one()
    held += count_waiting(connection, [row.id]).get(row.id, 0)
    return bool(held + images <= services.cfg.limits.case_images)


def _open(ledger: Ledger, services: Services, origin: Origin, uploads: Sequence[str]) -> str:
    # Another process may have opened one; the ledger's lock keeps others out from here on.
    connection = ledger.connection
    found, cases = _choose(connection, services, origin, uploads)
    if found:
        return found
    case_id, needed = new_id(), services.cfg.cases.signatures
    further = f" ({cases + 1})" if cases else ""
    label = words.file_name(origin.label, _LABEL - len(further)) + further
    identity = services.engine.identity
    changes.open_case(ledger, origin.user, case_id, label, identity, needed, origin.site)
    row = {"key": origin.key, "number": cases + 1, "case_id": case_id}
    connection.execute(insert(INTAKE), [row])
    return case_id


def find(services: Services, origin: Origin, upload: str) -> str:
    """The case of an origin that has an upload, answered or waiting; empty if there is none.

    Call it in a thread. It costs less than `deliver`, and the image need not be decoded for it.

    Raises:
        UnavailableError: The database is gone.
    """
    query = select(INTAKE.c.case_id).where(INTAKE.c.key == origin.key)
    with reading(services.records.engine, None) as connection:
        for case_id in connection.scalars(query).all():
            if _has(connection, case_id, [upload]):
                return str(case_id)
    return ""


def _hashes(services: Services, case_id: str, uploads: Sequence[str]) -> dict[str, str]:
    """sha256 of the image of each of these uploads that a case has."""
    found: dict[str, str] = {}
    with reading(services.records.engine, None) as connection:
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
