"""GET /v1/model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from bcd.inference.model import ModelFacts
from bcd.serving.accounts.access import ROLES, User, require
from bcd.serving.api.dependencies import Served
from bcd.serving.api.problems import documented
from bcd.serving.api.schemas import ModelAnswer, ModelName

router = APIRouter()


@router.get(
    "/v1/model",
    operation_id="model",
    summary="What the model says about itself",
    responses=documented(401, 403),
)
async def model(services: Served, user: Annotated[User, Depends(require(*ROLES))]) -> ModelAnswer:
    """The model that answers new images, with what its card says in words."""
    identity, facts, limits = (
        services.engine.identity,
        services.engine.model.facts,
        services.cfg.limits,
    )
    return ModelAnswer(
        model=ModelName.of(identity),
        kind=identity.kind,
        classes=list(identity.classes),
        benign=None if identity.benign is None else identity.classes[identity.benign],
        calibrated=facts.calibrated,
        views=[f"{view.normalization}@{view.image_side}" for view in facts.input_views],
        facts=_words(facts),
        limits={
            "images": limits.images,
            "image_mb": limits.image_mb,
            "queue": limits.queue,
            "seconds": limits.seconds,
            "requests_per_minute": limits.requests_per_minute,
        },
    )


def _words(facts: ModelFacts) -> dict[str, str]:
    """What else the card says."""
    found = {}
    if facts.appearance is not None:
        count = facts.appearance.get("images")
        found["trained on"] = f"Images that look like the {count} that its appearance describes."
    if facts.recalibration is not None:
        found["recalibrated"] = f"For images of the site {facts.recalibration.get('site')}."
    if not facts.calibrated:
        found["uncalibrated"] = "It has no decision policy: every image is referred."
    return found | _policy(facts)


def _policy(facts: ModelFacts) -> dict[str, str]:
    """Thresholds and what val was large enough to guarantee."""
    policy = facts.policy
    if policy is None:
        return {}
    found = {
        "referred": f"With a probability below {policy['confidence_threshold']:.3f}, or for "
        "another of the reasons in the answer.",
        "prediction sets": f"Contain the true class in {policy['guaranteed_coverage']:.1%} of "
        f"{policy['population'] or 'images like those of val'} or more (n = {policy['n_units']}).",
    }
    threshold = policy["malignant_threshold"]
    if threshold is not None:
        found["malignant"] = (
            f"From a probability of {threshold:.3f} of all classes but the benign one; sensitivity "
            f"of {policy['guaranteed_sensitivity']:.1%} or more with {policy['confidence']:.0%} "
            f"confidence (n = {policy['n_malignant_units']})."
        )
    return found
