"""Cases over the API, by the same rules as on the pages (`bcd.serving.cases`)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving import cases as rules
from bcd.serving.accounts.access import Admin, Reader, Reviewer, Signer, Submitter
from bcd.serving.api.case_schemas import (
    AddedImage,
    AddedImages,
    CaseAnswer,
    CaseList,
    CaseQuery,
    CaseRow,
    Erasure,
    NewCase,
    NewReview,
    NewSignature,
    Opened,
    QueuedImage,
    QueuedImages,
    ReportQuery,
    UploadStatus,
)
from bcd.serving.api.dependencies import Served
from bcd.serving.api.predict import images_body
from bcd.serving.api.problems import documented
from bcd.serving.api.schemas import Answer
from bcd.serving.api.uploads import read_images, upload_ids
from bcd.serving.dicom import unpack
from bcd.serving.jobs.adding import status
from bcd.serving.sites import seen_site
from bcd.serving.submit import submit, submit_later

router = APIRouter(prefix="/v1/cases")

CaseId = Annotated[str, Path(max_length=64, description="Of the case.")]
UploadId = Annotated[str, Path(max_length=64, description="As in the response to the upload.")]
ImageId = Annotated[str, Path(max_length=64, description="Of the image.")]
_READ = documented(401, 403, 404)
_WRITE = documented(401, 403, 404, 409, 415, 507)


_UPLOAD_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,128}$"}


def _uploads(described: dict[str, Any]) -> dict[str, Any]:
    """Adds to the description of a body of images how uploads that are sent again are told."""
    form = described["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"]["upload"] = {
        "type": "array",
        "items": _UPLOAD_ID,
        "description": "For each image an id that the client chose; sent again, it adds nothing.",
    }
    header = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": _UPLOAD_ID,
        "description": "The same for a whole request; the images have to be in the same order.",
    }
    prefer = {
        "name": "Prefer",
        "in": "header",
        "schema": {"type": "string", "maxLength": 200},
        "description": "With `respond-async`, images are answered after the response (RFC 7240).",
    }
    return described | {"parameters": [header, prefer]}


def _respond_async(request: Request) -> bool:
    """Whether the client prefers a response before the answers (RFC 7240)."""
    given = ",".join(request.headers.getlist("prefer")).split(",")
    return any(each.split(";")[0].strip().lower() == "respond-async" for each in given)


@router.get("", operation_id="list_cases", summary="List cases", responses=documented(401, 403))
async def list_cases(
    services: Served,
    user: Reader,
    query: Annotated[CaseQuery, Query()],
) -> CaseList:
    """Cases without their images, the newest first; of the user's site, if the user has one."""
    rows = await run_in_threadpool(
        services.records.cases, query.limit, query.before, query.status, seen_site(user, query.site)
    )
    return CaseList(cases=[CaseRow.of(row) for row in rows])


@router.post(
    "",
    operation_id="open_case",
    summary="Open a case",
    status_code=201,
    responses=documented(401, 403, 415, 507),
)
async def open_case(services: Served, user: Submitter, body: NewCase) -> Opened:
    """Opens a case, whose images the loaded model answers."""
    return Opened(id=await rules.open_case(services, user, body.label, body.site))


@router.get("/{case_id}", operation_id="get_case", summary="Read a case", responses=_READ)
async def get_case(services: Served, user: Reader, case_id: CaseId) -> CaseAnswer:
    """A case with its images, their answers, reviews and signatures."""
    return CaseAnswer.of(await rules.get_case(services, user, case_id))


@router.post(
    "/{case_id}/images",
    operation_id="add_images",
    summary="Add images to a case",
    status_code=201,
    response_model=AddedImages,
    responses={
        **documented(401, 403, 404, 409, 415, 504, 507),
        202: {"model": QueuedImages, "description": "They are on disk and wait for an answer."},
    },
    openapi_extra=_uploads(images_body(many=True)),
)
async def add_images(
    request: Request, services: Served, user: Submitter, case_id: CaseId
) -> AddedImages | JSONResponse:
    """Answers images and adds them to the case; those that cannot be read wait for a review.

    With `Prefer: respond-async`, the response comes when the images are on disk; any server of the
    database answers them later, also after a restart. With upload ids, a request whose response was
    lost can be sent again: it adds nothing twice.
    """
    files = await read_images(request, services.cfg.limits)
    uploads = await upload_ids(request, len(files))
    images = await unpack(services, files, uploads)
    if _respond_async(request):
        return _queued(case_id, await submit_later(services, user, case_id, images))
    added = await submit(services, user, case_id, images)
    classes = services.engine.identity.classes
    listed = [
        AddedImage(id=one.id, name=one.name, answer=Answer.of(one.answer, classes)) for one in added
    ]
    return AddedImages(images=listed)


def _queued(case_id: str, uploads: list[str]) -> JSONResponse:
    case = f"/v1/cases/{case_id}"
    images = [QueuedImage(upload=one, status=f"{case}/uploads/{one}") for one in uploads]
    headers = {"Location": case, "Preference-Applied": "respond-async"}
    return JSONResponse(QueuedImages(images=images).model_dump(), 202, headers)


@router.get(
    "/{case_id}/uploads/{upload}",
    operation_id="get_upload",
    summary="What became of an upload",
    responses=_READ,
)
async def get_upload(
    services: Served, user: Reader, case_id: CaseId, upload: UploadId
) -> UploadStatus:
    """Whether an image that was to be answered later waits, is answered, or has failed."""
    await rules.check_seen(services, user, case_id)
    found = await run_in_threadpool(status, services, case_id, upload)
    return UploadStatus(upload=upload, **vars(found))


@router.post(
    "/{case_id}/images/{image_id}/review",
    operation_id="review_image",
    summary="Confirm or override an answer",
    status_code=204,
    responses=_WRITE,
)
async def review(
    services: Served,
    user: Reviewer,
    case_id: CaseId,
    image_id: ImageId,
    body: NewReview,
) -> Response:
    """Records what a person found in an image."""
    await rules.review(services, user, case_id, image_id, body.finding, body.remark, seen=body.seen)
    return Response(status_code=204)


@router.post(
    "/{case_id}/sign",
    operation_id="sign_case",
    summary="Sign a case",
    status_code=204,
    responses=_WRITE,
)
async def sign(
    services: Served,
    user: Signer,
    case_id: CaseId,
    body: NewSignature,
) -> Response:
    """Signs a case; refused while a referred image waits for a review."""
    await rules.sign(services, user, case_id, body.version, body.password)
    return Response(status_code=204)


@router.post(
    "/{case_id}/erase",
    operation_id="erase_case",
    summary="Erase a case",
    status_code=204,
    responses=_WRITE,
)
async def erase(
    services: Served,
    user: Admin,
    case_id: CaseId,
    body: Erasure,
) -> Response:
    """Erases images, names, label and remarks; hashes and a record of it stay."""
    await rules.erase(services, user, case_id, body.reason)
    return Response(status_code=204)


_TYPES = {"csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/{case_id}/report",
    operation_id="case_report",
    summary="The report of a case",
    response_class=Response,
    responses={**_READ, 200: {"content": {"text/csv": _BINARY, "application/pdf": _BINARY}}},
)
async def report(
    services: Served,
    user: Reader,
    case_id: CaseId,
    query: Annotated[ReportQuery, Query()],
) -> Response:
    """The case as CSV, or as PDF with pictures of the images that are still held."""
    made = rules.csv_report if query.format == "csv" else rules.pdf_report
    headers = {"Content-Disposition": f'attachment; filename="case.{query.format}"'}
    headers |= {"X-Disclaimer": DISCLAIMER}
    content = await made(services, user, case_id)
    return Response(content, media_type=_TYPES[query.format], headers=headers)
