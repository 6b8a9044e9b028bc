"""GET /v1/model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from bcd.evaluation.decision import DecisionPolicy
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
        found["trained on"] = (
            "Images of stained blood smears of these classes; what they look like is known from "
            f"{facts.appearance.get('images')} of them."
        )
    if facts.recalibration is not None:
        found["recalibrated"] = f"For images of the site {facts.recalibration.get('site')}."
    if not facts.calibrated:
        found["uncalibrated"] = "It has no decision policy: every image is referred."
    return found | _policy(facts)


def _policy(facts: ModelFacts) -> dict[str, str]:
    """Thresholds, and what val was large enough to guarantee."""
    if facts.policy is None:
        return {}
    policy = DecisionPolicy.from_plain(dict(facts.policy))
    found = {
        "referred": "If the largest probability is below "
        f"{policy.confidence_threshold:.3f}, or for another of the reasons in the answer.",
        "prediction sets": f"Contain the true class of at least {policy.guaranteed_coverage:.1%} "
        f"of images (n = {policy.n_units}).",
    }
    if policy.malignant_threshold is not None:
        found["malignant"] = (
            "If the probability of all classes but the benign one is at least "
            f"{policy.malignant_threshold:.3f}: a sensitivity of at least "
            f"{policy.guaranteed_sensitivity:.1%} with {policy.confidence:.0%} confidence "
            f"(n = {policy.n_malignant_units})."
        )
    if policy.population:
        found["guarantees"] = f"They apply to {policy.population}."
    return found
