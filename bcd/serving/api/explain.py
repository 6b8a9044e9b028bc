"""POST /v1/explain."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving.accounts.access import Submitter
from bcd.serving.api.dependencies import Served
from bcd.serving.api.predict import images_body
from bcd.serving.api.problems import documented
from bcd.serving.api.schemas import ExplainQuery, ExplanationAnswer, ModelName
from bcd.serving.api.uploads import read_images
from bcd.serving.dicom import unpack_one
from bcd.serving.errors import TooLargeError, UnprocessableError
from bcd.serving.sites import acting_site

router = APIRouter()

PNG = "image/png"


@router.post(
    "/v1/explain",
    operation_id="explain",
    summary="Show where the evidence in an image is",
    response_model=ExplanationAnswer,
    responses={
        **documented(401, 403, 415, 504),
        200: {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}},
    },
    openapi_extra=images_body(many=False),
)
async def explain(
    request: Request,
    services: Served,
    user: Submitter,
    query: Annotated[ExplainQuery, Query()],
) -> ExplanationAnswer | Response:
    """Answers one image with its attribution: JSON, or a PNG if `Accept` prefers image/png."""
    identity = services.engine.identity
    target = query.target
    if target is not None and target not in identity.classes:
        raise UnprocessableError(f"target: choose one of {', '.join(identity.classes)}.")
    site = acting_site(services, user, query.site)
    images = await read_images(request, services.cfg.limits)
    if len(images) > 1:
        raise TooLargeError("Send one image.")
    image = await unpack_one(services, *images[0], query.frame)
    found = await services.engine.explain(image.data, target, site)
    if PNG in request.headers.get("accept", ""):
        words = {"method": found.method, "empty": str(found.empty).lower()}
        headers = {f"X-Attribution-{k.title()}": v for k, v in words.items()}
        headers |= {"X-Disclaimer": DISCLAIMER}
        return Response(found.png, media_type=PNG, headers=headers)
    return ExplanationAnswer(
        model=ModelName.of(identity),
        method=found.method,
        target=found.target,
        empty=found.empty,
        png=base64.b64encode(found.png).decode(),
        milliseconds=round(found.milliseconds, 3),
    )
