"""What of a case becomes FHIR resources; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Statuses of a report. A case is preliminary until it is signed, and amended if it is signed and a
# person's finding differs from a model's answer.
PRELIMINARY, FINAL, AMENDED, ERASED = "preliminary", "final", "amended", "entered-in-error"
REGISTERED = "registered"  # of a report without contents


@dataclass(frozen=True)
class ReportedModel:
    """The model that answered.

    Attributes:
        name: As configured.
        sha256: Of its file; identifies it.
        version: Of bcd that wrote the file.
    """

    name: str
    sha256: str
    version: str


@dataclass(frozen=True)
class ReportedImage:
    """An image, the answer, and what a person found.

    Attributes:
        id: Of the image; unique.
        number: In the case, from 1.
        at: When it was answered, in seconds since 1970, UTC.
        changed_at: When it was answered, reviewed or signed last, in seconds since 1970, UTC.
        sha256: Of the image.
        probabilities: Calibrated, by class; empty if there is no answer.
        predicted: The class given by the model; None if there is no answer.
        malignant: Whether the model calls it malignant; None if that is not decided.
        prediction_set: Classes of the conformal prediction set.
        referred: Whether a person has to look at it.
        reasons: Why it was referred.
        ood_score: Above 1 is out of distribution; None if there is no answer.
        out_of_distribution: Whether that is a reason of the referral.
        finding: What stands: a person's finding, else the model's class; None if there is neither,
            and while a referred image waits for a review.
        overridden: Whether a person's finding differs from the model's class.
        waits: Whether it was referred and nobody has reviewed it.
        remark: Of the person; empty to leave it out.
        profile: sha256 of the site's profile by which the image was matched; empty if it was not.
        threshold: Of the site, by which it is called malignant; None: the model's.
        settings: What the two mean for the answer; empty without them.
    """

    id: str
    number: int
    at: float
    changed_at: float
    sha256: str
    probabilities: Mapping[str, float]
    predicted: str | None
    malignant: bool | None
    prediction_set: tuple[str, ...]
    referred: bool
    reasons: tuple[str, ...]
    ood_score: float | None
    out_of_distribution: bool
    finding: str | None
    overridden: bool
    waits: bool
    remark: str = ""
    profile: str = ""
    threshold: float | None = None
    settings: str = ""


@dataclass(frozen=True)
class ReportedDocument:
    """The report as a file.

    Attributes:
        media_type: `application/pdf` or `text/csv`.
        data: The file.
    """

    media_type: str
    data: bytes


@dataclass(frozen=True)
class ReportedCase:
    """A case as of one version.

    Attributes:
        id: Of the case; unique.
        version: Number and hash of the last record about it, `<number>:<hash>`.
        status: `PRELIMINARY`, `FINAL`, `AMENDED` or `ERASED`. Of an erased case nothing but the
            identifiers is stated.
        opened_at: Seconds since 1970, UTC.
        changed_at: When it got this version, in seconds since 1970, UTC.
        site: Whose case it is; empty if the server has one site only.
        label: What users call it; empty to leave it out.
        patient: The PatientID of its images; empty if it is unknown.
        issuer: Who gave it, the IssuerOfPatientID; empty if that is unknown.
        signers: Names of users; empty to leave them out.
        model: That answered.
        images: In their order.
        document: The report as a file; None while there is none, and if the case is erased.
        documented: Whether there is a document, or was one before the case was erased.
    """

    id: str
    version: str
    status: str
    opened_at: float
    changed_at: float
    site: str
    label: str
    patient: str
    issuer: str
    signers: tuple[str, ...]
    model: ReportedModel
    images: tuple[ReportedImage, ...]
    document: ReportedDocument | None
    documented: bool

    @property
    def erased(self) -> bool:
        """Whether nothing but the identifiers may be stated."""
        return self.status == ERASED
