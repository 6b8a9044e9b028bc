"""POST /v1/predict."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving.accounts.access import Submitter
from bcd.serving.api.dependencies import Served
from bcd.serving.api.problems import Problem, documented, problem
from bcd.serving.api.schemas import OF_IMAGES, AnsweredImage, Answers, ModelName
from bcd.serving.api.uploads import read_images
from bcd.serving.dicom import unpack
from bcd.serving.errors import RequestError, UnprocessableError
from bcd.serving.sites import acting_site
from bcd.serving.submit import answer_images

router = APIRouter()


class Unanswered(Answers, Problem):
    """Why none of the images could be answered: for each of them in `error`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Unprocessable",
                "status": 422,
                "detail": "None of the images could be answered.",
                "request_id": "0f8b3c5e9a7d4c21",
                "disclaimer": DISCLAIMER,
                "model": {
                    "name": "paper",
                    "version": "0.1.0",
                    "sha256": "5" * 64,
                    "card_sha256": "c" * 64,
                },
                "images": [
                    {
                        "sha256": "8" * 64,
                        "probabilities": {},
                        "class": None,
                        "malignant": None,
                        "prediction_set": [],
                        "refer": True,
                        "reasons": ["unreadable"],
                        "ood_score": None,
                        "error": "not an image",
                        "milliseconds": 3.1,
                        "threshold": None,
                        "profile": "",
                        "name": "smear.png",
                        "frame": None,
                        "source_sha256": None,
                    }
                ],
            }
        }
    )


def images_body(many: bool) -> dict[str, Any]:
    """How OpenAPI describes a body of images."""
    binary = {"type": "string", "format": "binary"}
    images = {"type": "array", "items": binary, "minItems": 1} if many else binary
    form = {"type": "object", "properties": {"images": images}, "required": ["images"]}
    one = "the bytes of smear.png"
    example = {"images": [one, "the bytes of smear-2.png"] if many else one}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form, "example": example}}
    for kind in ("image/png", "image/jpeg", "application/dicom", "application/octet-stream"):
        content[kind] = {"schema": binary, "example": one}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/v1/predict",
    operation_id="predict",
    summary="Classify images",
    response_model=Answers,
    responses=documented(401, 403, 415, 504, 507, unprocessable=Unanswered),
    openapi_extra=images_body(many=True),
)
async def predict(
    request: Request,
    services: Served,
    user: Submitter,
    site: Annotated[str, Query(description=OF_IMAGES)] = "",
) -> Answers | Response:
    """Answers one or several images. They are not kept, but the answers are recorded.

    Each frame of a DICOM file is an image of its own.

    An image that cannot be read gets an `error` and is referred; if none can be read, the answer
    is a 422 with the same list.
    """
    if set(request.query_params) - {"site"}:  # a misspelt name would mean another site
        raise RequestError("The address has a parameter that is not known; known is site.")
    where = acting_site(services, user, site)
    images = await unpack(services, await read_images(request, services.cfg.limits))
    engine = services.engine
    answers = await answer_images(services, images, where)
    sources = [image.source for image in images]
    recorded = services.records.submit_answers(user.name, answers, engine.identity, where, sources)
    await asyncio.wrap_future(recorded)
    answered = Answers(
        model=ModelName.of(engine.identity),
        images=[
            AnsweredImage.of_image(image, answer, engine.identity.classes)
            for image, answer in zip(images, answers, strict=True)
        ],
    )
    if all(answer.error for answer in answers):
        error = UnprocessableError("None of the images could be answered.")
        return problem(request, error, **answered.model_dump(by_alias=True))
    return answered
