"""Cases as DICOM objects over the API; the pages link here, too."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving import cases as rules
from bcd.serving.accounts.access import Reader
from bcd.serving.api.cases import CaseId, ImageId
from bcd.serving.api.dependencies import Served
from bcd.serving.api.problems import documented
from bcd.serving.reports import objects

router = APIRouter(prefix="/v1/cases")

MEDIA_TYPE = "application/dicom"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS = {
    **documented(401, 403, 404, 409, 504),
    200: {"content": {MEDIA_TYPE: _BINARY}},
}

Form = Annotated[
    Literal["parametric", "segmentation"],
    Query(description="Parametric map (float32), or segmentation of the most evidence."),
]


def _object(content: bytes, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}.dcm"'}
    headers |= {"X-Disclaimer": DISCLAIMER}
    return Response(content, media_type=MEDIA_TYPE, headers=headers)


@router.get(
    "/{case_id}/report.dcm",
    operation_id="case_report_object",
    summary="The report of a case as DICOM Structured Report",
    response_class=Response,
    responses=_ANSWERS,
)
async def report(services: Served, user: Reader, case_id: CaseId) -> Response:
    """Answers, doubt, reviews and the model; verified only after the case is signed."""
    case = await rules.get_case(services, user, case_id)
    return _object(await objects.report_object(services, case), "report")


@router.get(
    "/{case_id}/images/{image_id}/heatmap.dcm",
    operation_id="image_heatmap_object",
    summary="Where the evidence in an image is, as DICOM object",
    response_class=Response,
    responses=_ANSWERS,
)
async def heatmap(
    services: Served,
    user: Reader,
    case_id: CaseId,
    image_id: ImageId,
    form: Form = "parametric",
) -> Response:
    """The evidence for the predicted class in the frame of the image."""
    case = await rules.get_case(services, user, case_id)
    made = await objects.heatmap_object(services, case, image_id, form)
    return _object(made, form)


@router.get(
    "/{case_id}/images/{image_id}/capture.dcm",
    operation_id="image_capture_object",
    summary="An image with its evidence as DICOM Secondary Capture",
    response_class=Response,
    responses=_ANSWERS,
)
async def capture(
    services: Served, user: Reader, case_id: CaseId, image_id: ImageId
) -> Response:  # fmt: skip
    """The image with the evidence for the predicted class drawn over it."""
    case = await rules.get_case(services, user, case_id)
    return _object(await objects.capture_object(services, case, image_id), "capture")


@router.get(
    "/{case_id}/images/{image_id}/image.dcm",
    operation_id="image_object",
    summary="An image as DICOM Secondary Capture",
    response_class=Response,
    responses=_ANSWERS,
)
async def image(
    services: Served, user: Reader, case_id: CaseId, image_id: ImageId
) -> Response:  # fmt: skip
    """The image itself, which the other objects refer to if it is in no DICOM object elsewhere."""
    case = await rules.get_case(services, user, case_id)
    return _object(await objects.image_object(services, case, image_id), "image")
