"""Makes answers of what readers and the model say."""

from __future__ import annotations

import hashlib

from bcd.evaluation.decision import Decisions
from bcd.evaluation.predictions import UNREADABLE
from bcd.evaluation.site_threshold import at_threshold
from bcd.serving.answers import ImageAnswer, ModelIdentity
from bcd.serving.engine.sites import Way

# Reason for referral where the model itself failed.
NO_ANSWER = "no answer"


def answered(
    data: bytes,
    decisions: Decisions,
    number: int,
    identity: ModelIdentity,
    milliseconds: float,
    way: Way,
) -> ImageAnswer:
    """The answer for an image that the model decided about.

    Args:
        data: The image as it was uploaded.
        decisions: Of the model.
        number: Of the image in them.
        identity: Of the model.
        milliseconds: Since the image arrived.
        way: Of the image's site.
    """
    found = decisions.prediction(number, "")
    malignant, reasons = found.malignant, found.refer
    if way.threshold is not None and identity.benign is not None:
        malignant, reasons = at_threshold(
            decisions.probabilities[number], reasons, way.threshold, identity.benign
        )
    best = found.best
    known = best is not None
    return ImageAnswer(
        sha256=hashlib.sha256(data).hexdigest(),
        probabilities=found.probabilities,
        predicted=None if best is None else identity.classes[best],
        malignant=malignant,
        prediction_set=tuple(
            name
            for name, inside in zip(identity.classes, decisions.sets[number], strict=True)
            if inside and known
        ),
        refer=bool(reasons) or not known,
        reasons=reasons,
        ood_score=float(decisions.ood_scores[number]) if known else None,
        error="" if known else "the model's output is not a finite number",
        milliseconds=milliseconds,
        model_sha256=identity.sha256,
        profile=way.profile,
        match=way.match_sha256,
        threshold=way.threshold,
    )


def unanswered(
    data: bytes, error: str, reason: str, identity: ModelIdentity, milliseconds: float
) -> ImageAnswer:
    """What is said about an image without an answer: a person must look at it.

    Args:
        data: The image as it was uploaded.
        error: Why there is no answer.
        reason: For referral.
        identity: Of the model.
        milliseconds: Since the image arrived.
    """
    return ImageAnswer(
        sha256=hashlib.sha256(data).hexdigest(),
        probabilities=(),
        predicted=None,
        malignant=None,
        prediction_set=(),
        refer=True,
        reasons=(reason,),
        ood_score=None,
        error=error,
        milliseconds=milliseconds,
        model_sha256=identity.sha256,
    )


def unreadable(data: bytes, why: str, identity: ModelIdentity, milliseconds: float) -> ImageAnswer:
    """What is said about an upload that cannot be read as an image; see `unanswered`."""
    return unanswered(data, why, UNREADABLE, identity, milliseconds)
