"""From a case of the records to what is posted of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from bcd.data.dicom.header import SEVERAL, UNCERTAIN
from bcd.evaluation.decision import OOD
from bcd.interop.dicom.content import patient_key
from bcd.interop.fhir.case import (
    AMENDED,
    ERASED,
    FINAL,
    PRELIMINARY,
    ReportedCase,
    ReportedDocument,
    ReportedImage,
    ReportedModel,
)
from bcd.interop.settings import site_settings
from bcd.serving import cases
from bcd.serving.accounts.database import Database
from bcd.serving.answers import ModelIdentity
from bcd.serving.records import cases as records
from bcd.serving.records.cases import Case, CaseImage
from bcd.serving.records.queries import read_case, read_model
from bcd.serving.records.tables import RECORDS
from bcd.serving.reports.objects_content import PATIENT_ID, is_another, patient_of
from bcd.serving.reports.table import case_csv
from bcd.serving.services import Services

_HASH = re.compile("[0-9a-f]{64}")
_PDF = 8 << 20  # bytes, beyond which the report is posted as CSV


@dataclass(frozen=True)
class Snapshot:
    """A case as of one moment.

    Attributes:
        case: The case.
        model: That answered it.
        version: Number and hash of the last record about it.
        changed_at: Of that record, in seconds since 1970.
    """

    case: Case
    model: ModelIdentity
    version: str
    changed_at: float


def read_snapshot(database: Database, case_id: str) -> Snapshot:
    """Reads a case.

    Raises:
        NotFoundError: There is no such case.
        UnavailableError: The records cannot be used.
    """
    with database.reading() as connection, connection.begin():
        case = read_case(connection, case_id)
        model = read_model(connection, case.model_sha256)
        query = select(RECORDS.c.hash, RECORDS.c.time).where(RECORDS.c.number == case.version)
        found, time = connection.execute(query).one()
    assert model is not None  # recorded before the case
    return Snapshot(case, model, f"{case.version}:{found}", time)


def number_of(database: Database, case_id: str, version: str) -> int | None:
    """The number of a version of a case, `<number>:<hash>`; None if the records do not have it.

    Raises:
        UnavailableError: The records cannot be used.
    """
    number, _, digest = version.partition(":")
    if not _HASH.fullmatch(digest):
        return None
    query = select(RECORDS.c.number).where(RECORDS.c.case_id == case_id, RECORDS.c.hash == digest)
    with database.reading() as connection:
        found = connection.execute(query).scalar_one_or_none()
    return int(found) if found is not None and str(found) == number else None


async def reported(services: Services, found: Snapshot) -> ReportedCase:
    """What is posted of a case: without what people typed, unless `fhir.names` is set."""
    names = services.cfg.fhir.names
    case = without_attributes(found.case) if names else without_names(found.case)
    model = ReportedModel(found.model.name, found.model.sha256, found.model.version)
    signed = len(case.signatures) >= case.signatures_needed
    status = status_of(case)
    document = (
        await _document(services, case, found.version) if status in (FINAL, AMENDED) else None
    )
    return ReportedCase(
        case.id, found.version, status, case.opened_at, found.changed_at, case.site,
        case.label if names else "", *subject_of(found.case.images),
        tuple(each.by for each in case.signatures) if names else (),
        model, tuple(_image(case, image) for image in case.images), document, signed,
    )  # fmt: skip


def status_of(case: Case) -> str:
    """The status of a case's report."""
    if case.status == records.ERASED:
        return ERASED
    if case.status != records.SIGNED:
        return PRELIMINARY
    return AMENDED if any(map(_overridden, case.images)) else FINAL


def subject_of(images: Sequence[CaseImage]) -> tuple[str, str]:
    """The PatientID that was kept with the images, and its issuer; empty if unknown.

    The patient is that of a DICOM report, and unknown if there could be none: if images differ, or
    a value that tells patients apart is several or uncertain.
    """
    patient = patient_of(images)
    named = {patient_key(each.attributes) for each in images if PATIENT_ID in each.attributes}
    found = named.pop() if len(named) == 1 else ("", "")
    uncertain = any(SEVERAL in f"{text} " or UNCERTAIN in text for text in found)
    differs = any(
        PATIENT_ID not in each.attributes and is_another(each, patient) for each in images
    )
    return ("", "") if uncertain or differs else found


def without_names(case: Case) -> Case:
    """A case without label, file names and remarks, and with numbers instead of user names."""
    numbers: dict[str, str] = {}

    def user(name: str) -> str:
        return numbers.setdefault(name, f"user {len(numbers) + 1}")

    images = tuple(
        replace(
            image,
            name=f"image {image.number}",
            attributes={},
            reviews=tuple(replace(each, by=user(each.by), remark="") for each in image.reviews),
        )
        for image in case.images
    )
    signatures = tuple(replace(each, by=user(each.by)) for each in case.signatures)
    opened_by = user(case.opened_by)
    return replace(case, label="", opened_by=opened_by, images=images, signatures=signatures)


def without_attributes(case: Case) -> Case:
    """A case without attributes of DICOM uploads other than the PatientID."""
    images = tuple(
        replace(image, attributes={k: v for k, v in image.attributes.items() if k == PATIENT_ID})
        for image in case.images
    )
    return replace(case, images=images)


def _overridden(image: CaseImage) -> bool:
    return image.review is not None and image.review.overrides


def _image(case: Case, image: CaseImage) -> ReportedImage:
    answer = image.answer
    reviewed = 0.0 if image.review is None else image.review.at
    signed = case.signatures[-1].at if case.status == records.SIGNED else 0.0
    return ReportedImage(
        id=image.id,
        number=image.number,
        at=image.at,
        changed_at=max(image.at, reviewed, signed),
        sha256=answer.sha256,
        probabilities=dict(zip(case.classes, answer.probabilities, strict=False)),
        predicted=answer.predicted,
        malignant=answer.malignant,
        prediction_set=answer.prediction_set,
        referred=answer.refer,
        reasons=answer.reasons,
        ood_score=answer.ood_score,
        out_of_distribution=OOD in answer.reasons,
        finding=None if image.waits else image.finding,
        overridden=_overridden(image),
        waits=image.waits,
        remark=image.review.remark if image.review else "",
        profile=answer.profile,
        threshold=answer.threshold,
        settings=site_settings(answer.profile, answer.threshold),
    )


async def _document(services: Services, case: Case, version: str) -> ReportedDocument:
    """The report of a signed case."""
    pdf = await cases.write_pdf(services, case)
    if len(pdf) <= _PDF:
        return ReportedDocument("application/pdf", pdf)
    table = await asyncio.to_thread(case_csv, case, version)
    return ReportedDocument("text/csv", table.encode())
