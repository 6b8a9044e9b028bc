"""The changes that people make to cases; each runs in the writer's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, func, insert, select, update

from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.errors import ConflictError, NotFoundError, UnprocessableError
from bcd.serving.records.cases import ERASED, SIGNED, UNIDENTIFIED, NewImage, Source
from bcd.serving.records.chain import Ledger
from bcd.serving.records.contents import Contents
from bcd.serving.records.queries import count_reviews, read_uploads
from bcd.serving.records.replay import (
    ANSWERED,
    ERASURE,
    MODEL,
    OPENED,
    REVIEWED,
    SIGNATURE,
    CaseRow,
    answer_values,
    image_text,
    model_from_row,
    model_values,
)
from bcd.serving.records.tables import (
    ANSWERS,
    CASES,
    IMAGE_CONTENTS,
    INTAKE,
    JOBS,
    MODELS,
    TEXTS,
)
from bcd.serving.records.waiting import count_waiting, give_up, still_wait

OTHER_MODEL = "This case was opened with another model: open a new case for more images."


def ensure_model(ledger: Ledger, user: str, model: ModelIdentity, site: str) -> None:
    """Records a model when it first answers."""
    if model.sha256 in ledger.models:
        return
    query = select(MODELS.c.record).where(MODELS.c.sha256 == model.sha256)
    if ledger.connection.execute(query).one_or_none() is None:
        facts = asdict(model)
        number, _ = ledger.append(user, MODEL, facts, site=site)
        ledger.connection.execute(insert(MODELS), [model_values(number, facts)])
    ledger.models |= {model.sha256}


def add_answers(
    ledger: Ledger, user: str, answers: Sequence[ImageAnswer], model: ModelIdentity, site: str,
    sources: Sequence[Source | None] = (),
) -> None:  # fmt: skip
    """Records answers that belong to no case; `sources` are the DICOM files of their images."""
    if not answers:
        return
    ensure_model(ledger, user, model, site)
    for answer, source in zip(answers, sources or (None,) * len(answers), strict=True):
        facts = {"answer": vars(answer)} | ({"source": vars(source)} if source else {})
        number, time = ledger.append(user, ANSWERED, facts, site=site)
        ledger.add_answer(answer_values(number, time, None, None, site, facts))


def open_case(
    ledger: Ledger, user: str, case_id: str, label: str, model: ModelIdentity, needed: int,
    site: str,
) -> None:  # fmt: skip
    """Opens a case."""
    ensure_model(ledger, user, model, site)
    facts = {"model": model.sha256, "signatures_needed": needed}
    number, time = ledger.append(user, OPENED, facts, case_id, text=label, site=site)
    row = CaseRow.opened(case_id, number, time, user, site, facts)
    ledger.connection.execute(insert(CASES), [vars(row)])


def add_images(
    ledger: Ledger,
    user: str,
    case_id: str,
    model: ModelIdentity,
    images: Sequence[tuple[str, NewImage, ImageAnswer]],
    contents: Contents,
) -> list[str]:
    """Adds images to a case, except those of an upload that it has already.

    Args:
        ledger: To append to.
        user: Who adds them.
        case_id: The case.
        model: That has answered.
        images: For each its id and its answer.
        contents: Says what is kept of the bytes.

    Returns:
        The ids of the images, those that the case has already included.

    Raises:
        ConflictError: The case is signed or erased, another model answers its images, or an upload
            was of another image.
        NotFoundError: There is no such case.
    """
    row = changeable(ledger, case_id)
    if model.sha256 != row.model_sha256:
        raise ConflictError(OTHER_MODEL)
    ensure_model(ledger, user, model, row.site)
    query = select(func.count()).where(ANSWERS.c.case_id == case_id)
    number = ledger.connection.execute(query).scalar_one()
    known = read_uploads(ledger.connection, case_id, [image.upload for _, image, _ in images])
    kept: list[dict[str, object]] = []
    found: list[str] = []
    for image_id, image, answer in images:
        facts: dict[str, object] = {"number": number + 1, "answer": vars(answer)}
        if image.upload:
            sent, sha256 = known.setdefault(image.upload, (image_id, answer.sha256))
            if sha256 != answer.sha256:
                raise ConflictError("This upload id was used for another image: choose a new one.")
            if sent != image_id:  # sent again, because the answer was lost
                found.append(sent)
                continue
            facts["upload"] = image.upload
        number += 1
        found.append(image_id)
        keep = contents.keeps(answer)
        if image.source:
            facts["source"] = vars(image.source)
        if image.kept:
            facts["attributes"] = sorted(image.kept)
        if keep:
            key_id, stored = contents.stored(image_id, image.data)
            facts["stored"] = hashlib.sha256(stored).hexdigest()
            facts["key"] = key_id
            kept.append({"image_id": image_id, "case_id": case_id, "key_id": key_id,
                         "stored": stored})  # fmt: skip
        record, time = ledger.append(
            user, ANSWERED, facts, case_id, image_id, image_text(image), row.site
        )
        ledger.add_answer(answer_values(record, time, case_id, image_id, row.site, facts))
        if keep:
            kept[-1]["time"] = time
        row.follow(record, ANSWERED, user)
    if kept:
        ledger.connection.execute(insert(IMAGE_CONTENTS), kept)
    save(ledger, row)
    return found


def review(
    ledger: Ledger,
    user: str,
    case_id: str,
    image_id: str,
    finding: str,
    remark: str,
    seen: int | None = None,
    image_held: bool = True,
) -> None:
    """Records what a person found in an image.

    Raises:
        ConflictError: The case is signed or erased, or the image has other than `seen` reviews.
        NotFoundError: There is no such case or image.
        UnprocessableError: The finding is unknown, or it overrides the answer without a remark.
    """
    row = changeable(ledger, case_id)
    table = ANSWERS.c
    query = select(table.predicted).where(table.image_id == image_id, table.case_id == case_id)
    answer = ledger.connection.execute(query).one_or_none()
    if answer is None:
        raise NotFoundError("There is no such image in this case.")
    predicted = answer[0]
    classes = model_of(ledger, row.model_sha256).classes
    if finding not in (*classes, UNIDENTIFIED):
        raise UnprocessableError(
            f"The finding must be one of {', '.join(classes)}, {UNIDENTIFIED}."
        )
    overrides = predicted is not None and finding != predicted
    if overrides and not remark.strip():
        raise UnprocessableError("A finding that differs from the answer needs a remark.")
    if seen is not None and seen != count_reviews(ledger.connection, case_id, image_id):
        raise ConflictError("Somebody has reviewed this image since you opened it. Look again.")
    facts = {"finding": finding, "overrides": overrides, "image_held": image_held}
    number, _ = ledger.append(user, REVIEWED, facts, case_id, image_id, remark.strip(), row.site)
    values = {"finding": finding, "waiting": 0}
    ledger.connection.execute(update(ANSWERS).where(table.image_id == image_id).values(values))
    row.follow(number, REVIEWED, user)
    save(ledger, row)


def sign(ledger: Ledger, user: str, case_id: str, version: int) -> None:
    """Records a signature.

    Raises:
        ConflictError: The case has changed since `version`, is empty, signed or erased, a referred
            image waits for a review, or the same person signs twice.
        NotFoundError: There is no such case.
    """
    row = changeable(ledger, case_id)
    if user.casefold() in {name.casefold() for name in row.signers}:
        raise ConflictError("You have signed this case; another person has to sign next.")
    if version != row.version:
        raise ConflictError("The case has changed since you opened it: read it again, then sign.")
    if unanswered := count_waiting(ledger.connection, [case_id]).get(case_id):
        raise ConflictError(still_wait(unanswered))
    table = ANSWERS.c
    query = select(func.count(), func.sum(table.waiting)).where(table.case_id == case_id)
    images, waiting = ledger.connection.execute(query).one()
    if not images:
        raise ConflictError("The case has no images.")
    if waiting:
        what = "1 referred image waits" if waiting == 1 else f"{waiting} referred images wait"
        raise ConflictError(f"{what} for a review.")
    number, _ = ledger.append(user, SIGNATURE, {"version": version}, case_id, site=row.site)
    row.follow(number, SIGNATURE, user)
    save(ledger, row)


def erase(ledger: Ledger, user: str, case_id: str, reason: str) -> list[str]:
    """Erases images, names, label and remarks of a case; hashes and answers stay.

    Returns:
        The ids of its images.

    Raises:
        ConflictError: It is erased already.
        NotFoundError: There is no such case.
        UnprocessableError: There is no reason.
    """
    row = case_row(ledger, case_id)
    if row.status == ERASED:
        raise ConflictError("This case is erased already.")
    if not reason.strip():
        raise UnprocessableError("Give a reason for erasing the case.")
    connection = ledger.connection
    for table in (TEXTS, IMAGE_CONTENTS, INTAKE):
        connection.execute(delete(table).where(table.c.case_id == case_id))
    give_up(connection, JOBS.c.case_id == case_id, "The case was erased.")
    number, _ = ledger.append(user, ERASURE, {}, case_id, text=reason.strip(), site=row.site)
    row.follow(number, ERASURE, user)
    save(ledger, row)
    images = select(ANSWERS.c.image_id).where(ANSWERS.c.case_id == case_id)
    return [image for image in connection.scalars(images) if image is not None]


def case_row(ledger: Ledger, case_id: str) -> CaseRow:
    """The row of a case, as of the last change.

    Raises:
        NotFoundError: There is no such case.
    """
    query = select(CASES).where(CASES.c.id == case_id)
    row = ledger.connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such case.")
    return CaseRow(**row)


def model_of(ledger: Ledger, sha256: str) -> ModelIdentity:
    """A recorded model."""
    query = select(MODELS).where(MODELS.c.sha256 == sha256)
    return model_from_row(dict(ledger.connection.execute(query).mappings().one()))


def save(ledger: Ledger, row: CaseRow) -> None:
    """Writes the row of a case."""
    query = update(CASES).where(CASES.c.id == row.id)
    ledger.connection.execute(query.values(vars(row)))


def changeable(ledger: Ledger, case_id: str) -> CaseRow:
    """The row of a case that may be changed.

    Raises:
        ConflictError: It is signed or erased.
        NotFoundError: There is no such case.
    """
    row = case_row(ledger, case_id)
    if row.status == SIGNED:
        raise ConflictError("This case is signed and can no longer be changed.")
    if row.status == ERASED:
        raise ConflictError("This case is erased.")
    return row
