"""What the API takes and answers about cases."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from bcd.serving.api.schemas import Answer, Disclaimed
from bcd.serving.records.cases import Case, CaseImage, CaseSummary, Review, Signature

Status = Literal["open", "signed", "erased"]


class Strict(BaseModel):
    """A body without unknown members, whose values have exactly their types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class CaseQuery(BaseModel):
    """Which cases to list."""

    model_config = ConfigDict(extra="forbid")  # a misspelt name would list something else

    limit: int = Field(default=100, ge=1, le=500, description="Rows at most.")
    before: float | None = Field(
        default=None,
        ge=0,
        le=1e11,
        description="Opened before; `opened_at` of the last row so far.",
    )
    status: Status | None = Field(default=None, description="Only cases of this status.")
    site: str | None = Field(default=None, max_length=32, description="Only cases of this site.")


class ReportQuery(BaseModel):
    """Which report to make."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["csv", "pdf"] = "csv"


class NewCase(Strict):
    """A case to open."""

    model_config = ConfigDict(json_schema_extra={"example": {"label": "S-2024-118"}})

    label: str = Field(min_length=1, max_length=200, description="No patient's name.")
    site: str | None = Field(
        default=None,
        max_length=32,
        description="Whose case it is; without it the user's, else the server's own.",
    )


class NewReview(Strict):
    """What a person found in an image."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"finding": "Unidentified", "remark": "Out of focus.", "seen": 0}
        }
    )

    finding: str = Field(max_length=200, description="A class of the model, or Unidentified.")
    remark: str = Field(
        default="", max_length=2000, description="Needed if it overrides the answer."
    )
    seen: int | None = Field(
        default=None,
        ge=0,
        le=2**31,
        description="Reviews of the image that the person saw, if known.",
    )


class NewSignature(Strict):
    """A signature."""

    model_config = ConfigDict(json_schema_extra={"example": {"version": 7}})

    version: int = Field(ge=0, le=2**62, description="Of the case that the person saw.")
    password: str = Field(
        default="", max_length=1024, description="Of a user with a session, again."
    )


class Erasure(Strict):
    """Why a case is erased."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "Consent was withdrawn."}})

    reason: str = Field(min_length=1, max_length=500)


class Opened(Disclaimed):
    """A case that was opened."""

    id: str


class ReviewAnswer(BaseModel):
    """A review."""

    by: str
    at: float = Field(description="Seconds since 1970, UTC.")
    finding: str
    overrides: bool = Field(description="Whether it differs from the answer.")
    remark: str
    image_held: bool = Field(description="Whether the server could show the image then.")

    @classmethod
    def of(cls, review: Review) -> ReviewAnswer:
        """A review of the records."""
        return cls(**vars(review))


class SignatureAnswer(BaseModel):
    """A signature."""

    by: str
    at: float = Field(description="Seconds since 1970, UTC.")
    chain: str = Field(description="Number and hash of the last record that it covers.")

    @classmethod
    def of(cls, signature: Signature) -> SignatureAnswer:
        """A signature of the records."""
        return cls(**vars(signature))


class ImageInCase(BaseModel):
    """An image of a case."""

    id: str
    number: int = Field(description="From 1, in order of arrival.")
    name: str = Field(description="Of the file; empty if erased.")
    at: float = Field(description="Seconds since 1970, UTC.")
    answer: Answer
    reviews: list[ReviewAnswer] = Field(description="The last one counts.")
    finding: str | None = Field(description="What a person found, else the model's class.")
    waits: bool = Field(description="Whether it was referred and nobody has reviewed it.")
    kept: bool = Field(description="Whether the image itself is in the records.")
    frame: int | None = Field(description="Of the DICOM file, from 1; null if it is of none.")
    source_sha256: str | None = Field(description="Of the DICOM file; null if it is of none.")
    attributes: dict[str, str] = Field(
        description="Of the DICOM file, those that are kept (`dicom.keep`), by keyword."
    )

    @classmethod
    def of(cls, image: CaseImage, classes: tuple[str, ...]) -> ImageInCase:
        """An image of the records."""
        return cls(
            id=image.id,
            number=image.number,
            name=image.name,
            at=image.at,
            answer=Answer.of(image.answer, classes),
            reviews=[ReviewAnswer.of(review) for review in image.reviews],
            finding=image.finding,
            waits=image.waits,
            kept=image.kept,
            frame=image.source.frame if image.source else None,
            source_sha256=image.source.sha256 if image.source else None,
            attributes=dict(image.attributes),
        )


class CaseAnswer(Disclaimed):
    """A case with its images."""

    id: str
    label: str = Field(description="Empty if erased.")
    site: str = Field(description="Whose case it is; empty if the server has one without a name.")
    opened_by: str
    opened_at: float = Field(description="Seconds since 1970, UTC.")
    model_sha256: str = Field(description="Of the model that answered it.")
    model_name: str
    classes: list[str]
    status: Status
    version: int = Field(description="A signature names it.")
    waiting: int = Field(description="Referred images that nobody has reviewed.")
    queued: int = Field(description="Further images, which wait for an answer.")
    signatures_needed: int
    images: list[ImageInCase]
    signatures: list[SignatureAnswer]

    @classmethod
    def of(cls, case: Case) -> CaseAnswer:
        """A case of the records."""
        return cls(
            id=case.id,
            label=case.label,
            site=case.site,
            opened_by=case.opened_by,
            opened_at=case.opened_at,
            model_sha256=case.model_sha256,
            model_name=case.model_name,
            classes=list(case.classes),
            status=cast(Status, case.status),
            version=case.version,
            waiting=case.waiting,
            queued=case.queued,
            signatures_needed=case.signatures_needed,
            images=[ImageInCase.of(image, case.classes) for image in case.images],
            signatures=[SignatureAnswer.of(signature) for signature in case.signatures],
        )


class CaseRow(BaseModel):
    """A row of the list of cases."""

    id: str
    label: str
    site: str
    opened_by: str
    opened_at: float = Field(description="Seconds since 1970, UTC.")
    status: Status
    images: int
    waiting: int = Field(description="Referred images that nobody has reviewed.")
    queued: int = Field(description="Further images, which wait for an answer.")
    signatures: int
    signatures_needed: int

    @classmethod
    def of(cls, row: CaseSummary) -> CaseRow:
        """A row of the records."""
        return cls(**vars(row))


class CaseList(Disclaimed):
    """Cases, the newest first."""

    cases: list[CaseRow]


class AddedImage(BaseModel):
    """An image that was added to a case."""

    id: str
    name: str = Field(description="Of the file.")
    answer: Answer


class AddedImages(Disclaimed):
    """Images that were added to a case, in the request's order."""

    images: list[AddedImage]


class QueuedImage(BaseModel):
    """An image that is answered later."""

    upload: str = Field(description="Of the upload: the hash of the client's id, or a new one.")
    status: str = Field(description="Address that tells what became of it.")


class QueuedImages(Disclaimed):
    """Images that are on disk and wait for an answer, in the request's order."""

    images: list[QueuedImage]


class UploadStatus(Disclaimed):
    """What became of an upload."""

    upload: str
    state: Literal["waiting", "answered", "failed"]
    image_id: str = Field(description="Of the image in the case; empty unless it is answered.")
    failure: str = Field(description="Why it will not be answered; empty unless it has failed.")
