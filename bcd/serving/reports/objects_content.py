"""What of a case is in DICOM objects, and whom they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

import bcd
from bcd.data.dicom.header import UNCERTAIN
from bcd.interop.dicom.content import PATIENT, patient_key
from bcd.interop.settings import site_settings
from bcd.serving.answers import ImageAnswer
from bcd.serving.records.cases import Case, CaseImage

if TYPE_CHECKING:
    from bcd.interop.dicom.content import Answer, Producer
    from bcd.interop.dicom.source import Source
    from bcd.serving.services import Services

PATIENT_ID = PATIENT[0]


async def producer_of(services: Services, case: Case) -> Producer:
    """The model that answers the images of a case."""
    from bcd.interop.dicom.content import Producer

    model = await run_in_threadpool(services.records.model_of, case.model_sha256)
    return Producer(
        case.model_name,
        "" if model is None else model.version,
        case.model_sha256,
        "" if model is None else model.card_sha256,
        case.classes,
        bcd.__version__,
    )


def patient_of(images: Iterable[CaseImage]) -> Mapping[str, str]:
    """What all images with a PatientID say of their patient, by which others are told.

    Empty if no image has a PatientID, or if two of them differ in one attribute of the patient, or
    may differ, as a value could not be read for certain.
    """
    named = [image.attributes for image in images if PATIENT_ID in image.attributes]
    patient: dict[str, str] = {}
    for kept in named:
        if patient_key(kept) != patient_key(named[0]):
            return {}
        found = {word: kept[word] for word in PATIENT if word in kept}
        if not all(_agree(patient[word], found[word]) for word in patient.keys() & found.keys()):
            return {}
        patient |= found
    return patient


def is_another(image: CaseImage, patient: Mapping[str, str]) -> bool:
    """Whether an image without a PatientID may be of somebody else than a patient.

    Args:
        image: Of a case.
        patient: `patient_of` its images. What is known of the image, such as a name, has to be
            known of the patient, too, and for certain.
    """
    kept = image.attributes
    known = all(_agree(kept[word], patient.get(word, "")) for word in PATIENT if word in kept)
    return not patient or not known


def _agree(one: str, other: str) -> bool:
    """Whether two values are certainly the same: different letters are read as one `UNCERTAIN`."""
    return one == other and UNCERTAIN not in one


def source_of(
    case: Case, image: CaseImage, patient: Mapping[str, str], rows: int, columns: int
) -> Source:
    """The picture that objects about an image refer to, with patient and study.

    An image without a PatientID, such as a PNG or a file that cannot be read, is of the patient of
    the others, unless it may be of somebody else. If there is none, the patient is the case's id.
    It is in a study of its own then, and is not that of a file: in the file's study it would be of
    another patient than the file.

    Args:
        case: The case.
        image: One of its images.
        patient: `patient_of` its images.
        rows: Height in pixels.
        columns: Width in pixels.
    """
    from bcd.interop.dicom.source import PICTURE, source_of_file, source_of_picture

    kept = image.attributes
    if PATIENT_ID in kept:
        patient = kept
    else:
        patient = {} if is_another(image, patient) else patient
        kept = {word: kept[word] for word in PICTURE if word in kept}
    own = {PATIENT_ID: case.id} | {word: patient[word] for word in PATIENT if word in patient}
    # Studies and pictures without UIDs get some; those of another patient are others.
    study = "\0".join((case.id, *patient_key(own)))
    if image.source is None or not kept:
        return source_of_picture(study, image.id, rows, columns, own)
    frame = image.source.frame if image.source.frames > 1 else None
    found = source_of_file(kept, rows, columns, frame, study, image.id)
    return replace(found, attributes={**found.attributes, **own})


def answer_of(case: Case, image: CaseImage) -> Answer:
    """The answer for an image, and what a person found."""
    from bcd.interop.dicom.content import Answer

    given, review = image.answer, image.review
    return Answer(
        image.number,
        given.sha256,
        given.predicted,
        given.probabilities,
        given.malignant,
        given.prediction_set,
        given.refer,
        given.reasons,
        given.ood_score,
        given.error,
        None if review is None else review.finding,
        review is not None and review.overrides,
        _settings(case, given),
        site_settings(given.profile, given.threshold),
    )


def _settings(case: Case, given: ImageAnswer) -> dict[str, str]:
    """The site of a case, and by which of its settings an answer was given."""
    threshold = "" if given.threshold is None else f"{given.threshold:g}"
    named = {"site": case.site, "site_threshold": threshold, "site_profile_sha256": given.profile}
    return {name: value for name, value in named.items() if value}


def last_change(case: Case) -> float:
    """When the last thing in a case happened, in seconds since 1970."""
    times = [case.opened_at, *(one.at for one in case.signatures)]
    for image in case.images:
        times += [image.at, *(review.at for review in image.reviews)]
    return max(times)


def utc(seconds: float) -> datetime:
    """Seconds since 1970 as a time."""
    return datetime.fromtimestamp(seconds, timezone.utc)
