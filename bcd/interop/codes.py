"""Coded concepts of answers, the same in FHIR resources and in DICOM objects.

A code of LOINC or SNOMED CT is used only where its meaning is exactly what is stated. The class
that a model gives an image is not a disorder of a patient, so classes have codes of this project.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LOINC, SNOMED, UCUM, LOCAL = "LN", "SCT", "UCUM", "99BCD"  # as DICOM designates them

# Made once from a UUID, as ITU-T X.667 allows without registration.
LOCAL_UID = "2.25.96464472587577822292931056389242615582"

_SYSTEMS = {
    LOINC: "http://loinc.org",
    SNOMED: "http://snomed.info/sct",
    UCUM: "http://unitsofmeasure.org",
    LOCAL: f"urn:oid:{LOCAL_UID}",
}


@dataclass(frozen=True)
class Concept:
    """A coded concept.

    Attributes:
        scheme: Designator of its coding scheme in DICOM: `LN`, `SCT`, `UCUM` or `99BCD`.
        code: Its code, at most 16 characters.
        meaning: What it means, in English, at most 64 characters.
    """

    scheme: str
    code: str
    meaning: str

    @property
    def system(self) -> str:
        """URI of its code system in FHIR."""
        return _SYSTEMS[self.scheme]


def _local(code: str, meaning: str) -> Concept:
    return Concept(LOCAL, code, meaning)


# What is reported. The first two were looked up at loinc.org, the third in DICOM's CID 8103.
SMEAR_FINDING = Concept(
    LOINC, "5909-7", "Blood smear finding [Identifier] in Blood by Light microscopy"
)
LABORATORY_REPORT = Concept(LOINC, "11502-2", "Laboratory report")
SMEAR = Concept(SNOMED, "258433009", "Smear sample")
NO_UNITS = Concept(UCUM, "1", "no units")

# What is said about an image.
MODEL_CLASS = _local("model-class", "Class given by the model")
PREDICTION_SET = _local("prediction-set", "Class in the conformal prediction set")
MALIGNANT = _local("malignant", "Called malignant by the model")
REFERRED = _local("referred", "Referred to a person")
REFERRAL_REASON = _local("referral-reason", "Reason for referral to a person")
OOD_SCORE = _local("ood-score", "Out-of-distribution score; above 1 is out")
OUT_OF_DISTRIBUTION = _local("ood", "Out of distribution: unlike the training images")
OVERRIDDEN = _local("overridden", "Finding of a person that differs from the model's")
NO_ANSWER = _local("no-answer", "No answer by the model")
IMAGE_SHA256 = _local("image-sha256", "sha256 of the image")
MODEL = _local("model", "Model that classifies images of blood smears")
UNIDENTIFIED = _local("unidentified", "No class of the model applies")

# The classes of the published data set, as this project spells them.
_CLASSES = {
    "Benign": _local("benign", "Smear of a benign case"),
    "Early Pre-B": _local("early-pre-b", "Smear of early pre-B ALL"),
    "Pre-B": _local("pre-b", "Smear of pre-B ALL"),
    "Pro-B": _local("pro-b", "Smear of pro-B ALL"),
}

_MEANING = 64  # characters, of a code meaning in DICOM


def class_concept(name: str) -> Concept:
    """The concept of a class of a model, or of the finding `Unidentified`.

    A class of another data set gets a local code from its name: equal names have equal codes.
    """
    known = _CLASSES.get(name)
    if known is not None:
        return known
    if name == "Unidentified":
        return UNIDENTIFIED
    code = f"c-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:12]}"
    meaning = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return _local(code, meaning[:_MEANING].strip() or "unnamed class")


def probability_concept(name: str) -> Concept:
    """The concept of the calibrated probability of a class."""
    of_class = class_concept(name)
    meaning = f"Calibrated probability: {of_class.meaning}"
    return _local(f"p-{of_class.code}", meaning[:_MEANING].strip())
