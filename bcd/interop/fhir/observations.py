"""The Observation of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop import codes
from bcd.interop.codes import Concept, class_concept
from bcd.interop.fhir.case import AMENDED, FINAL, ReportedCase, ReportedImage
from bcd.interop.fhir.parts import Json, absent, coding, concept, instant, narrative, subject, text

CATEGORY = coding("observation-category", "laboratory", "Laboratory")


def observation(case: ReportedCase, image: ReportedImage, identifier: Json, device: str) -> Json:
    """The Observation of an image; of an erased case, that it was entered in error.

    Args:
        case: The case.
        image: One of its images.
        identifier: Of the Observation.
        device: Reference to the model's Device.
    """
    made: Json = {
        "resourceType": "Observation",
        "identifier": [identifier],
        "status": _status(case, image),
        "category": [CATEGORY],
        "code": concept(codes.SMEAR_FINDING),
    }
    if case.erased:
        erased = "This case was erased."
        note = [{"text": DISCLAIMER}]
        return {**made, "text": narrative(DISCLAIMER, erased), "note": note,
                "dataAbsentReason": absent("masked", "Masked")}  # fmt: skip
    made["text"] = narrative(DISCLAIMER, *_lines(image))
    made["effectiveDateTime"] = instant(image.at)
    made["issued"] = instant(image.changed_at)  # no change of another image
    if case.patient:
        made["subject"] = subject(case.patient, case.issuer)
    if image.finding is not None:
        made["valueCodeableConcept"] = concept(class_concept(image.finding), image.finding)
    elif image.waits:
        made["dataAbsentReason"] = absent("temp-unknown", "Temporarily Unknown")
    else:
        made["dataAbsentReason"] = absent("error", "Error")
    made["device"] = {"reference": device}
    made["component"] = list(_components(image))
    notes = [DISCLAIMER, *filter(None, (image.settings, image.remark))]
    made["note"] = [{"text": text(each)} for each in notes]
    return made


def _status(case: ReportedCase, image: ReportedImage) -> str:
    return FINAL if case.status == AMENDED and not image.overridden else case.status


def _components(image: ReportedImage) -> Iterator[Json]:
    def said(coded: Concept, **value: object) -> Json:
        return {"code": concept(coded), **value}

    if image.predicted is not None:
        yield said(codes.MODEL_CLASS, valueCodeableConcept=concept(
            class_concept(image.predicted), image.predicted))  # fmt: skip
    else:
        yield said(codes.MODEL_CLASS, dataAbsentReason=absent("error", "Error"))
    for name, probability in image.probabilities.items():
        code = concept(codes.probability_concept(name), f"Calibrated probability: {name}")
        yield {"code": code, "valueQuantity": _quantity(probability)}
    for name in image.prediction_set:
        yield said(codes.PREDICTION_SET, valueCodeableConcept=concept(class_concept(name), name))
    if image.malignant is not None:
        yield said(codes.MALIGNANT, valueBoolean=image.malignant)
    if image.threshold is not None:
        yield said(codes.SITE_THRESHOLD, valueQuantity=_quantity(image.threshold))
    if image.profile:
        yield said(codes.SITE_PROFILE, valueString=image.profile)
    yield said(codes.REFERRED, valueBoolean=image.referred)
    for reason in image.reasons:
        yield said(codes.REFERRAL_REASON, valueString=text(reason))
    if image.ood_score is not None and math.isfinite(image.ood_score):
        yield said(codes.OOD_SCORE, valueQuantity=_quantity(image.ood_score))
    if image.predicted is not None:
        yield said(codes.OUT_OF_DISTRIBUTION, valueBoolean=image.out_of_distribution)
    yield said(codes.OVERRIDDEN, valueBoolean=image.overridden)
    yield said(codes.IMAGE_SHA256, valueString=image.sha256)


def _quantity(value: float) -> Json:
    unit = codes.NO_UNITS
    return {"value": round(value, 6), "unit": unit.code, "system": unit.system, "code": unit.code}


def _lines(image: ReportedImage) -> Iterator[str]:
    stands = image.finding or ("waits for a review" if image.waits else "no answer")
    yield f"Image {image.number}: {stands}"
    if image.predicted is not None:
        best = image.probabilities.get(image.predicted)
        share = "" if best is None else f", calibrated probability {best:.3f}"
        yield f"Model: {image.predicted}{share}"
    if image.referred:
        yield f"Referred to a person: {'; '.join(image.reasons)}"
    if image.settings:
        yield image.settings
    if image.overridden:
        yield "A person's finding differs from the model's."
