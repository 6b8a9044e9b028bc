"""What the API answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.records.cases import NewImage

OF_IMAGES = "Site of the images; without it the user's, else the server's own."


class ModelName(BaseModel):
    """The model that answered."""

    name: str = Field(description="As configured, or of its file.", examples=["paper"])
    version: str = Field(description="Of bcd that wrote the file.", examples=["0.1.0"])
    sha256: str = Field(description="Of its file.", examples=["5" * 64])
    card_sha256: str = Field(description="Of its card.", examples=["c" * 64])

    @classmethod
    def of(cls, identity: ModelIdentity) -> ModelName:
        """The model's name in an answer."""
        return cls(**vars(identity))


class Answer(BaseModel):
    """The answer for one image."""

    model_config = ConfigDict(
        serialize_by_alias=True,
        json_schema_extra={
            "example": {
                "sha256": "8" * 64,
                "probabilities": {"Benign": 0.01, "Early": 0.02, "Pre": 0.93, "Pro": 0.04},
                "class": "Pre",
                "malignant": True,
                "prediction_set": ["Pre"],
                "refer": False,
                "reasons": [],
                "ood_score": 0.41,
                "error": "",
                "milliseconds": 12.5,
                "threshold": 0.3,
                "profile": "",
            }
        },
    )

    sha256: str = Field(
        description="Of the image as it was uploaded, or of the PNG of a DICOM file's frame."
    )
    probabilities: dict[str, float] = Field(description="Calibrated; empty without an answer.")
    predicted: str | None = Field(
        serialization_alias="class", description="The most probable class; null without an answer."
    )
    malignant: bool | None = Field(description="By `threshold`; null if not decided.")
    prediction_set: list[str] = Field(description="Classes of the conformal prediction set.")
    refer: bool = Field(description="Whether a person must look at it; always without an answer.")
    reasons: list[str] = Field(description="All reasons to refer it.")
    ood_score: float | None = Field(description="Above 1 is out of distribution.")
    error: str = Field(description="Why there is no answer; empty if there is one.")
    milliseconds: float = Field(description="From arrival in the queue to the answer.")
    threshold: float | None = Field(
        description="Of the site, not the policy's; null: the policy's, chosen on val."
    )
    profile: str = Field(description="sha256 of the site's profile; empty if it was not matched.")

    @classmethod
    def of(cls, answer: ImageAnswer, classes: tuple[str, ...]) -> Answer:
        """An answer of the engine."""
        given = zip(classes, answer.probabilities, strict=bool(answer.probabilities))
        return cls(
            sha256=answer.sha256,
            probabilities=dict(given),
            predicted=answer.predicted,
            malignant=answer.malignant,
            prediction_set=list(answer.prediction_set),
            refer=answer.refer,
            reasons=list(answer.reasons),
            ood_score=answer.ood_score,
            error=answer.error,
            milliseconds=round(answer.milliseconds, 3),
            threshold=answer.threshold,
            profile=answer.profile,
        )


class AnsweredImage(Answer):
    """The answer for an image of a request."""

    name: str = Field(description="Of the file, and the frame if it has several; may be empty.")
    frame: int | None = Field(description="Of the DICOM file, from 1; null if it is of none.")
    source_sha256: str | None = Field(description="Of the DICOM file; null if it is of none.")

    @classmethod
    def of_image(
        cls, image: NewImage, answer: ImageAnswer, classes: tuple[str, ...]
    ) -> AnsweredImage:
        """An answer of the engine, and the image that it is for."""
        return cls(
            **dict(Answer.of(answer, classes)),
            name=image.name,
            frame=image.source.frame if image.source else None,
            source_sha256=image.source.sha256 if image.source else None,
        )


class Disclaimed(BaseModel):
    """What every answer says."""

    disclaimer: str = Field(default=DISCLAIMER, description="Holds for everything in the answer.")


class Answers(Disclaimed):
    """Answers for the images of a request, in its order."""

    model: ModelName
    images: list[AnsweredImage]


class ExplainQuery(BaseModel):
    """What to explain."""

    model_config = ConfigDict(extra="forbid")

    site: str = Field(default="", description=OF_IMAGES)
    target: str | None = Field(
        default=None, max_length=200, description="A class; without it, the most probable one."
    )
    frame: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Of a DICOM file with several, from 1."
    )


class ExplanationAnswer(Disclaimed):
    """Where in the image the evidence for a class is."""

    model: ModelName
    method: str = Field(description="Of attribution.", examples=["gradcam", "occlusion"])
    target: str = Field(description="The class.")
    empty: bool = Field(description="Whether no evidence for it was found.")
    png: str = Field(description="The image with its attribution: a PNG in base64.")
    milliseconds: float


class SiteAnswer(BaseModel):
    """How images of a site are answered."""

    name: str = Field(description="Empty if the server has one without a name.")
    profile: str = Field(description="sha256 of its profile; empty if images are not matched.")
    threshold: float | None = Field(description="For malignancy; null: the policy's.")
    facts: str = Field(description="What that means for the answers, in words.")


class ModelAnswer(Disclaimed):
    """The model, and what its card says."""

    model: ModelName
    kind: str = Field(description="`export` or `checkpoint`.")
    classes: list[str] = Field(description="In the order of the probabilities.")
    benign: str | None = Field(description="The class that is not cancer.")
    calibrated: bool = Field(description="Whether it has a decision policy fitted on val.")
    views: list[str] = Field(description="In which normalization and size it gets an image.")
    facts: dict[str, str] = Field(description="What else the card says, in words.")
    sites: list[SiteAnswer] = Field(description="Those that the user sees.")
    limits: dict[str, int | float] = Field(description="Of this server's requests.")
