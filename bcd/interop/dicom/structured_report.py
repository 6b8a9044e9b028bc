"""A report as Comprehensive SR, by the template Measurement Report (TID 1500)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.enum import RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop import codes as ours
from bcd.interop.codes import Concept, class_concept, probability_concept, reason_concept
from bcd.interop.dicom.content import Answer, ObjectError, Producer, Signed, derived_uid
from bcd.interop.dicom.making import MANUFACTURER, coded, equipment, finish, one_line, parameters
from bcd.interop.dicom.source import Source, header, refer, series_of


@dataclass(frozen=True)
class Reported:
    """An image of a report.

    Attributes:
        source: The picture.
        answer: About it.
    """

    source: Source
    answer: Answer


def report(
    producer: Producer,
    images: Sequence[Reported],
    at: datetime,
    *,
    key: str,
    study: Source | None = None,
    signed: Signed | None = None,
    organization: str = "",
) -> Dataset:
    """A structured report about images of one patient.

    Args:
        producer: The model.
        images: At least one, all of one patient.
        at: When the last thing in it happened.
        key: Identifies this version of the report in its study; equal keys have equal UIDs.
        study: Of one of the images: the report joins its study. None: of the first.
        signed: The signature; None: the report is unverified and preliminary.
        organization: Of who signed; empty if unknown.

    Raises:
        ObjectError: The images are of different patients, or the patient cannot be written.
    """
    filed = study or images[0].source
    if len({image.source.patient for image in images}) > 1:
        raise ObjectError("the images are of different patients")
    groups = [_group(producer, image) for image in images]
    content = MeasurementReport(
        observation_context=_context(producer),
        procedure_reported=coded(ours.CLASSIFICATION),
        imaging_measurements=groups,
    )
    content[0].ContentSequence.append(_text(DISCLAIMER))
    made = ComprehensiveSR(
        evidence=_evidence([filed, *(image.source for image in images)]),
        content=content[0],
        series_instance_uid=series_of(filed, "report", producer.sha256),
        series_number=9000,
        sop_instance_uid=derived_uid(
            "report", filed.study_uid, *filed.patient, producer.sha256, producer.software, key
        ),
        instance_number=1,
        is_complete=True,
        is_final=signed is not None,
        is_verified=signed is not None,
        verifying_observer_name=None if signed is None else person_name(signed.by),
        verifying_organization=one_line(organization or "not stated"),
        **equipment(producer),
    )
    refer(made, [image.source for image in images], frames=False)
    if signed is not None:
        made.VerifyingObserverSequence[0].VerificationDateTime = signed.at.strftime(
            "%Y%m%d%H%M%S.%f%z"
        )
    finish(made, filed, at)
    return made


def person_name(user: str) -> str:
    """A user's name as the family name of a DICOM person name."""
    clean = "".join(" " if c in "\\^=" or not c.isprintable() else c for c in user)
    return f"{clean.strip()[:60] or 'unnamed'}^"


def _evidence(sources: Sequence[Source]) -> list[Dataset]:
    found: dict[str, Dataset] = {}
    for source in sources:
        if source.sop_uid not in found:
            found[source.sop_uid] = header(source)
    return list(found.values())


def _context(producer: Producer) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", producer.sha256, producer.software),
        name="bcd",
        manufacturer_name=MANUFACTURER,
        model_name=one_line(producer.name),
        serial_number=producer.sha256,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _group(producer: Producer, image: Reported) -> MeasurementsAndQualitativeEvaluations:
    source, answer = image.source, image.answer
    frames = None if source.frame is None else [source.frame]
    settings = parameters(producer) | dict(answer.settings)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derived_uid("tracking", source.key, producer.sha256),
            identifier=f"Image {answer.number}",
        ),
        algorithm_id=AlgorithmIdentification(
            one_line(producer.name),
            one_line(producer.version),
            [f"{name}={value}" for name, value in settings.items()],
        ),
        measurements=_measurements(producer, answer),
        qualitative_evaluations=_evaluations(answer),
        source_images=[
            SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_uid, frames)
        ],
    )
    items = group[0].ContentSequence
    items.append(_text(answer.sha256, coded(ours.IMAGE_SHA256)))
    if answer.predicted is None:
        items.append(_text(answer.error or "no answer", coded(ours.NO_ANSWER)))
    if answer.note:
        items.append(_text(answer.note))
    return group


def _text(text: str, name: CodedConcept | None = None) -> TextContentItem:
    return TextContentItem(
        name=codes.DCM.Comment if name is None else name,
        value=text,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _measurements(producer: Producer, answer: Answer) -> list[Measurement]:
    # An image without an answer has no probabilities.
    pairs = zip(producer.classes, answer.probabilities, strict=False)
    made = [
        Measurement(coded(probability_concept(name)), value, codes.UCUM.NoUnits)
        for name, value in pairs
    ]
    if answer.ood_score is not None:
        made.append(Measurement(coded(ours.OOD_SCORE), answer.ood_score, codes.UCUM.NoUnits))
    return made


def _evaluations(answer: Answer) -> list[QualitativeEvaluation]:
    found: list[tuple[Concept, CodedConcept]] = []
    if answer.predicted is not None:
        found.append((ours.MODEL_CLASS, coded(class_concept(answer.predicted))))
        members = [class_concept(one) for one in answer.prediction_set] or [ours.EMPTY_SET]
        found += [(ours.PREDICTION_SET, coded(one)) for one in members]
    if answer.malignant is not None:
        found.append((ours.MALIGNANT, _yes(answer.malignant)))
    found.append((ours.REFERRED, _yes(answer.refer)))
    found += [(ours.REFERRAL_REASON, coded(reason_concept(one))) for one in answer.reasons]
    if answer.finding is not None:
        found.append((ours.FINDING, coded(class_concept(answer.finding))))
        found.append((ours.OVERRIDDEN, _yes(answer.overridden)))
    return [QualitativeEvaluation(coded(name), value) for name, value in found]


def _yes(value: bool) -> CodedConcept:
    return CodedConcept.from_code(codes.SCT.Yes if value else codes.SCT.No)
