"""GET /v1/model."""

from __future__ import annotations

from fastapi import APIRouter

from bcd.evaluation.decision import DecisionPolicy
from bcd.inference.model import ModelFacts
from bcd.interop.settings import site_settings
from bcd.reporting.guarantees import sets_guarantee, source_of, threshold_guarantee
from bcd.serving.accounts.access import Reader
from bcd.serving.api.dependencies import Served
from bcd.serving.api.problems import documented
from bcd.serving.api.schemas import ModelAnswer, ModelName, SiteAnswer
from bcd.serving.services import Services
from bcd.serving.sites import visible_sites

router = APIRouter()


@router.get(
    "/v1/model",
    operation_id="model",
    summary="What the model says about itself",
    responses=documented(401, 403),
)
async def model(services: Served, user: Reader) -> ModelAnswer:
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
        sites=[_site(services, name) for name in visible_sites(services, user)],
        limits={
            "images": limits.images,
            "image_mb": _plain(limits.image_mb),
            "request_mb": _plain(limits.request_mb),
            "queue": limits.queue,
            "seconds": _plain(limits.seconds),
            "requests_per_minute": limits.requests_per_minute,
        },
    )


def _site(services: Services, name: str) -> SiteAnswer:
    way = services.engine.ways[name]
    meant = site_settings(way.profile, way.threshold)
    return SiteAnswer(name=name, profile=way.profile, threshold=way.threshold, facts=meant)


def _plain(number: float) -> int | float:
    """An integer where it is one: 32 instead of 32.0."""
    return int(number) if number.is_integer() else number


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
    """When images are referred, and what val was large enough to guarantee, as reports say it."""
    if facts.policy is None:
        return {}
    # An export's card has no subspace, and null for a number that JSON does not know.
    plain = {k: v for k, v in facts.policy.items() if v is not None} | {"subspace": None}
    policy = DecisionPolicy.from_plain({**vars(DecisionPolicy()), **plain})
    source = source_of(facts.recalibration, facts.released)
    found = {
        "referred": "An image is referred if its highest probability is below "
        f"{policy.confidence_threshold:.3f}, or for another of the reasons in its answer. Limits "
        f"were fitted on {source}.",
        "malignant": threshold_guarantee(policy, source),
        "prediction sets": sets_guarantee(policy, source),
    }
    return {name: sentence for name, sentence in found.items() if sentence}
