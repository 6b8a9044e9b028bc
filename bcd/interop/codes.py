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
SITE_THRESHOLD = _local("site-threshold", "Threshold of the site for malignant, not the model's")
SITE_PROFILE = _local("site-profile", "sha256 of the site's profile that the image was matched by")
REFERRED = _local("referred", "Referred to a person")
REFERRAL_REASON = _local("referral-reason", "Reason for referral to a person")
OOD_SCORE = _local("ood-score", "Out-of-distribution score; above 1 is out")
OUT_OF_DISTRIBUTION = _local("ood", "Out of distribution: unlike the training images")
OVERRIDDEN = _local("overridden", "Finding of a person that differs from the model's")
NO_ANSWER = _local("no-answer", "No answer by the model")
IMAGE_SHA256 = _local("image-sha256", "sha256 of the image")
MODEL = _local("model", "Model that classifies images of blood smears")
UNIDENTIFIED = _local("unidentified", "No class of the model applies")
CLASSIFICATION = _local("classification", "Classification of blood smear images by software")
FINDING = _local("finding", "Finding of a person")
EMPTY_SET = _local("empty-set", "None: the prediction set is empty")

# What heat maps show.
EVIDENCE = _local("evidence", "Density of the evidence for a class; 1 is even")
MOST_EVIDENCE = _local("most-evidence", "Place with the most evidence for a class")

# The classes of the published data set, as this project spells them.
_CLASSES = {
    "Benign": _local("benign", "Smear of a benign case"),
    "Early Pre-B": _local("early-pre-b", "Smear of early pre-B ALL"),
    "Pre-B": _local("pre-b", "Smear of pre-B ALL"),
    "Pro-B": _local("pro-b", "Smear of pro-B ALL"),
}

# Reasons of a referral, as answers have them. That an image is out of distribution is one thing,
# that it is referred for it another: `ood` and `r-ood`.
_REASONS = {
    "unreadable": "r-unreadable",
    "low confidence": "r-low-confidence",
    "out of distribution": "r-ood",
    "not finite": "r-not-finite",
    "uncalibrated": "r-uncalibrated",
    "threshold disagrees": "r-disagrees",
    "members disagree": "r-members",
    "all classes equally probable": "r-undecided",
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
    return _named("c", name, "unnamed class")


def probability_concept(name: str) -> Concept:
    """The concept of the calibrated probability of a class."""
    of_class = class_concept(name)
    meaning = f"Calibrated probability: {of_class.meaning}"
    return _local(f"p-{of_class.code}", meaning[:_MEANING].strip())


def reason_concept(reason: str) -> Concept:
    """The concept of a reason for referral; one that is not known has a code from its words."""
    known = _REASONS.get(reason)
    return _named("r", reason, "unnamed reason") if known is None else _local(known, reason)


def _named(kind: str, name: str, otherwise: str) -> Concept:
    """A concept whose code is made from its name."""
    code = f"{kind}-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:12]}"
    meaning = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return _local(code, meaning[:_MEANING].strip() or otherwise)
