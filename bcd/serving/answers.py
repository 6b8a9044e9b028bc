"""What the server says about an image, and about the model that said it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """The model that gives answers.

    Attributes:
        name: As configured, or of its file.
        sha256: Of its file; identifies it in records.
        version: Of bcd that wrote the file.
        kind: `export` or `checkpoint`.
        card_sha256: Of its card.
        classes: Names, in the order of the probabilities.
        benign: Index of the class that is not cancer; None if there is none.
    """

    name: str
    sha256: str
    version: str
    kind: str
    card_sha256: str
    classes: tuple[str, ...]
    benign: int | None


@dataclass(frozen=True)
class ImageAnswer:
    """The answer for one image.

    Attributes:
        sha256: Of the image as it was uploaded.
        probabilities: Calibrated, one per class; empty if there is no answer.
        predicted: The most probable class; None if there is no answer.
        malignant: Whether it is called malignant; None if that is not decided.
        prediction_set: Classes of the conformal prediction set.
        refer: Whether a person must look at it; always if there is no answer.
        reasons: All reasons to refer it.
        ood_score: Above 1 is out of distribution; None if there is no answer.
        error: Why there is no answer; empty if there is one.
        milliseconds: From its arrival in the queue to the answer.
        model_sha256: Of the model that answered.
        profile: sha256 of the profile by which the image was matched; empty if it was not.
        match: sha256 of how it was matched: by the profile, the model's card and the options.
        threshold: Of the site, by which it is called malignant; None: that of the model's policy.
    """

    sha256: str
    probabilities: tuple[float, ...]
    predicted: str | None
    malignant: bool | None
    prediction_set: tuple[str, ...]
    refer: bool
    reasons: tuple[str, ...]
    ood_score: float | None
    error: str
    milliseconds: float
    model_sha256: str
    profile: str = ""
    match: str = ""
    threshold: float | None = None

    @property
    def doubt(self) -> float:
        """Sorts images, the most doubtful first: 2 without an answer, +1 if referred."""
        if not self.probabilities:
            return 2.0
        return float(self.refer) + 1 - max(self.probabilities)
