"""What DICOM objects are made of, as plain data."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec

# Attributes that say who a patient is; the first two, a PatientID and who gave it, tell patients
# apart: two hospitals may both count from 1.
PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")


class ObjectError(Exception):
    """A DICOM object cannot be made. The message has no attribute of a person."""


@dataclass(frozen=True)
class Producer:
    """The model that gave the answers.

    Attributes:
        name: Of the model.
        version: Of bcd that wrote the model.
        sha256: Of its file.
        card_sha256: Of its card.
        classes: Names, in the order of the probabilities.
        software: Version of bcd that makes the objects.
    """

    name: str
    version: str
    sha256: str
    card_sha256: str
    classes: tuple[str, ...]
    software: str


@dataclass(frozen=True)
class Answer:
    """The answer for one image.

    Attributes:
        number: Of the image in the report, from 1.
        sha256: Of the image.
        predicted: The most probable class; None if there is no answer.
        probabilities: Calibrated, one per class; empty if there is no answer.
        malignant: Whether it is called malignant; None if that is not decided.
        prediction_set: Classes of the conformal prediction set.
        refer: Whether a person must look at it.
        reasons: All reasons to refer it.
        ood_score: Above 1 is out of distribution; None if unknown.
        error: Why there is no answer; empty if there is one.
        finding: What a person found; None if nobody has looked.
        overridden: Whether that differs from the predicted class.
        settings: Of the site, under which the answer was given, by name; empty for none.
        note: What these settings mean for it; empty for nothing.
    """

    number: int
    sha256: str
    predicted: str | None
    probabilities: tuple[float, ...]
    malignant: bool | None
    prediction_set: tuple[str, ...]
    refer: bool
    reasons: tuple[str, ...]
    ood_score: float | None
    error: str = ""
    finding: str | None = None
    overridden: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Signed:
    """The signature that makes a report final.

    Attributes:
        by: Name of the user who signed last.
        at: When.
    """

    by: str
    at: datetime


@dataclass(frozen=True)
class Evidence:
    """Whose evidence a heat map shows, and how it was found.

    Attributes:
        target: The class.
        method: `gradcam`, `integrated_gradients` or `occlusion`.
    """

    target: str
    method: str


def patient_key(attributes: Mapping[str, str]) -> tuple[str, str]:
    """What tells patients apart: the PatientID and its issuer, each empty if unknown."""
    return attributes.get(PATIENT[0], ""), attributes.get(PATIENT[1], "")


def installed() -> bool:
    """Whether objects can be made: highdicom is installed."""
    return find_spec("highdicom") is not None


def derived_uid(*parts: str) -> str:
    """A DICOM UID that follows from texts alone, below the root 2.25 of UUIDs.

    Equal texts have equal UIDs, so that an object that is sent again does not double. UIDs do not
    tell the texts.
    """
    text = "\0".join(("bcd", *parts)).encode("utf-8", "backslashreplace")
    return f"2.25.{uuid.UUID(bytes=hashlib.sha256(text).digest()[:16], version=5).int}"
