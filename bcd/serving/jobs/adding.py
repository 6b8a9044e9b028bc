"""Images that are answered later, by whichever server of the database has room."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import delete, func, insert, select

from bcd.serving import words
from bcd.serving.errors import ConflictError, NotFoundError, TooLargeError
from bcd.serving.records.cases import NewImage
from bcd.serving.records.chain import Ledger, clean_text
from bcd.serving.records.changes import OTHER_MODEL, changeable
from bcd.serving.records.database import database_time, reading
from bcd.serving.records.ids import check_ids, new_id
from bcd.serving.records.queries import read_uploads
from bcd.serving.records.tables import ANSWERS, JOBS
from bcd.serving.records.waiting import WAITING, count_waiting

if TYPE_CHECKING:
    from bcd.serving.services import Services

_UPLOAD = re.compile("[0-9a-f]{1,32}")
_UNKNOWN = "There is no such upload in this case."

State = Literal["waiting", "answered", "failed"]
Row = dict[str, object]
_BETWEEN = 1e-6  # seconds between images of one request, so that they keep their order


@dataclass(frozen=True)
class Status:
    """What became of an upload.

    Attributes:
        state: Whether it waits, is answered, or will not be.
        image_id: Of the image in the case; empty unless it is answered.
        failure: Why it will not be answered; empty unless it has failed.
    """

    state: State
    image_id: str = ""
    failure: str = ""


def add(services: Services, user: str, case_id: str, image: NewImage) -> str:
    """Has an image answered later; see `add_all`."""
    return add_all(services, user, case_id, [image])[0]


def add_all(services: Services, user: str, case_id: str, images: Sequence[NewImage]) -> list[str]:
    """Has images answered later and added to a case; call it in a thread.

    It returns when they are on disk. Adding an upload again that the case has already, answered or
    waiting, changes nothing; one that has failed waits again.

    Args:
        services: Of the server.
        user: Who adds them.
        case_id: Of the case.
        images: As `bcd.serving.dicom.unpack` returns them.

    Returns:
        The id of each upload: that of the image, or a new one if it has none.

    Raises:
        ConflictError: The case is signed or erased, another model answers its images, or an upload
            was of another image.
        NotFoundError: There is no such case.
        StorageFullError, UnavailableError: The database is full or gone; nothing was added.
        TooLargeError: An image is too large, or the case would have too many.
    """
    check_ids(case_id)
    rows, most = job_rows(services, user, images), services.cfg.limits.case_images
    model = services.engine.identity.sha256
    services.records.change(lambda ledger: add_rows(ledger, case_id, model, rows, most))
    return [str(row["upload"]) for row in rows]


def job_rows(services: Services, user: str, images: Sequence[NewImage]) -> list[Row]:
    """Rows of the table of jobs, without a case, for `add_rows`.

    Raises:
        TooLargeError: An image is too large.
    """
    limits, contents = services.cfg.limits, services.records.contents
    if any(len(image.data) > limits.image_mb * 1e6 for image in images):
        raise TooLargeError(f"An image may have at most {limits.image_mb:g} MB.")
    rows: list[Row] = []
    for image in images:
        job_id = new_id()
        key_id, stored = contents.stored(job_id, image.data)
        _, described = contents.stored(described_id(job_id), _described(image))
        rows.append({
            "id": job_id, "user_name": clean_text(user),
            "upload": image.upload or secrets.token_hex(16),
            "sha256": image.sha256, "size": len(image.data),
            "image": described, "key_id": key_id, "stored": stored,
            "lease_until": 0.0, "attempts": 0,
        })  # fmt: skip
    return rows


def state(services: Services, case_id: str, upload: str) -> State:
    """What became of an upload; see `status`."""
    return status(services, case_id, upload).state


def status(services: Services, case_id: str, upload: str) -> Status:
    """What became of an upload; call it in a thread.

    Args:
        services: Of the server.
        case_id: Of the case.
        upload: What `add` returned.

    Raises:
        NotFoundError: There is no such case, or it never had this upload.
        UnavailableError: The records cannot be used.
    """
    check_ids(case_id)
    if not _UPLOAD.fullmatch(upload):
        raise NotFoundError(_UNKNOWN)
    with reading(services.records.engine, None) as connection:
        query = select(JOBS.c.failure).where(JOBS.c.case_id == case_id, JOBS.c.upload == upload)
        job = connection.execute(query).one_or_none()
        if job is not None:
            return Status("waiting") if job[0] is None else Status("failed", failure=job[0])
        # Second, as one transaction records the answer and removes the job.
        table = ANSWERS.c
        found = select(table.image_id).where(table.case_id == case_id, table.upload == upload)
        image_id = connection.scalar(found)
    if image_id is None:
        raise NotFoundError(_UNKNOWN)
    return Status("answered", image_id)


def waiting(services: Services) -> int:
    """The number of images that wait for an answer, of all cases; call it in a thread.

    Raises:
        UnavailableError: The records cannot be used.
    """
    with reading(services.records.engine, None) as connection:
        return connection.scalar(select(func.count()).select_from(JOBS).where(WAITING)) or 0


def described_id(job_id: str) -> str:
    """The id under which what is known of a job's image is encrypted."""
    return f"{job_id} image"


def _described(image: NewImage) -> bytes:
    """What is known of an image besides its bytes, as JSON."""
    source = None if image.source is None else asdict(image.source)
    name = clean_text(words.file_name(image.name))
    kept = dict(image.kept)
    about = {"name": name, "source": source, "kept": kept, "error": image.error}
    return json.dumps(about).encode()


def add_rows(ledger: Ledger, case_id: str, model: str, rows: Sequence[Row], most: int) -> None:
    """Adds rows to a case in the writer's transaction, except those that it has.

    Args:
        ledger: Of the transaction.
        case_id: Of the case.
        model: sha256 of the loaded model.
        rows: Of `job_rows`.
        most: Images that a case may have.

    Raises:
        RequestError: As `add_all`.
    """
    connection, row = ledger.connection, changeable(ledger, case_id)
    if model != row.model_sha256:
        raise ConflictError(OTHER_MODEL)
    uploads = [str(each["upload"]) for each in rows]
    known = {key: sha256 for key, (_, sha256) in read_uploads(connection, case_id, uploads).items()}
    these = (JOBS.c.case_id == case_id) & JOBS.c.upload.in_(uploads)
    query = select(JOBS.c.upload, JOBS.c.sha256).where(these, WAITING)
    known |= {str(upload): str(sha256) for upload, sha256 in connection.execute(query)}
    new = []
    for each, upload in zip(rows, uploads, strict=True):
        if upload not in known:
            new.append(each)
        if known.setdefault(upload, str(each["sha256"])) != each["sha256"]:
            raise ConflictError("This upload id was used for another image: choose a new one.")
    if not new:
        return
    answered = select(func.count()).where(ANSWERS.c.case_id == case_id)
    count = connection.scalar(answered) or 0
    if count + count_waiting(connection, [case_id]).get(case_id, 0) + len(new) > most:
        raise TooLargeError(f"A case takes at most {most} images.")
    connection.execute(delete(JOBS).where(these, ~WAITING))
    now = database_time(connection)
    for place, each in enumerate(new):
        each |= {
            "case_id": case_id, "model_sha256": model, "time": now + place * _BETWEEN,
        }  # fmt: skip
    connection.execute(insert(JOBS), new)
