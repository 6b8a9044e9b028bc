"""Pages: the list of cases, and one case with upload, signature and erasure."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from bcd.config.disclaimer import DISCLAIMER
from bcd.serving import cases
from bcd.serving.accounts.access import Admin, Reader, Signer, Submitter, User
from bcd.serving.api.dependencies import Served
from bcd.serving.api.uploads import read_images, upload_ids
from bcd.serving.dicom import unpack
from bcd.serving.errors import RequestError
from bcd.serving.pages.arrange import SHOWS, SORTS, Arrangement, arranged, shown
from bcd.serving.pages.render import page, page_of, wants_part
from bcd.serving.records.cases import ERASED, OPEN, SIGNED, Case
from bcd.serving.services import Services
from bcd.serving.sites import seen_site, visible_sites
from bcd.serving.submit import submit, why_no_uploads

router = APIRouter(include_in_schema=False)

PER_LIST = 50
LISTED = 20  # images that wait, named beside a refused signature


@router.get("/")
async def start() -> Response:
    """Leads to the list of cases."""
    return RedirectResponse("/cases", 303)


@router.get("/cases")
async def list_cases(
    request: Request, services: Served, user: Reader, status: str = "", before: str = ""
) -> Response:
    """The list of cases, newest first."""
    return await _list(request, services, user, status, before)


@router.post("/cases")
async def open_case(
    request: Request, services: Served, user: Submitter, label: Annotated[str, Form()] = "",
    site: Annotated[str, Form()] = "",
) -> Response:  # fmt: skip
    """Opens a case."""
    try:
        case_id = await cases.open_case(services, user, label, site)
    except RequestError as error:
        return await _list(request, services, user, error=error, label=label, site=site)
    return RedirectResponse(f"/cases/{case_id}", 303)


async def _list(
    request: Request,
    services: Services,
    user: User,
    status: str = "",
    before: str = "",
    error: RequestError | None = None,
    label: str = "",
    site: str = "",
) -> Response:
    chosen = status if status in (OPEN, SIGNED, ERASED) else ""
    try:
        earlier = float(before) if before else None
    except ValueError:
        earlier = None
    found = await run_in_threadpool(
        services.records.cases, PER_LIST + 1, earlier, chosen or None, seen_site(user, None)
    )
    return page(
        request,
        "cases.html",
        user,
        200 if error is None else error.status,
        cases=found[:PER_LIST],
        more=repr(found[PER_LIST - 1].opened_at) if len(found) > PER_LIST else "",
        chosen=chosen,
        statuses=(OPEN, SIGNED, ERASED),
        newest=not before,
        sites=visible_sites(services, user),
        several=len(services.sites) > 1 or any(case.site != services.cfg.site for case in found),
        site=site,
        error=error,
        label=label,
        most=cases.LABEL,
    )


@router.get("/cases/{case_id}")
async def show_case(
    request: Request,
    services: Served,
    user: Reader,
    case_id: str,
    sort: str = "",
    show: str = "",
    page: int = 1,
) -> Response:
    """A case; only its images if htmx asks for them."""
    case = await cases.get_case(services, user, case_id)
    how = Arrangement.asked(sort, show, page)
    return _case(request, services, user, case, how, part=wants_part(request))


@router.post("/cases/{case_id}/images")
async def upload(request: Request, services: Served, user: Submitter, case_id: str) -> Response:
    """Adds images; answers as JSON if that is accepted, else with the case."""
    try:
        files = await read_images(request, services.cfg.limits)
        uploads = await upload_ids(request, len(files))
        images = await unpack(services, files, uploads)
        added = await submit(services, user, case_id, images)
    except RequestError as error:
        if not _wants_json(request):
            case = await cases.get_case(services, user, case_id)
            return _case(request, services, user, case, error=error, where="upload")
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return JSONResponse({"detail": error.detail}, error.status, headers)
    if not _wants_json(request):
        return RedirectResponse(f"/cases/{case_id}", 303)
    listed = [
        {"id": i.id, "refer": i.answer.refer, "error": i.answer.error} for i in added
    ]  # fmt: skip
    return JSONResponse({"images": listed, "disclaimer": DISCLAIMER}, 201)


@router.post("/cases/{case_id}/sign")
async def sign(
    request: Request,
    services: Served,
    user: Signer,
    case_id: str,
    version: Annotated[int, Form()],
    password: Annotated[str, Form()] = "",
) -> Response:
    """Signs a case."""
    try:
        await cases.sign(services, user, case_id, version, password)
    except RequestError as error:
        case = await cases.get_case(services, user, case_id)
        return _case(request, services, user, case, error=error, where="sign")
    return RedirectResponse(f"/cases/{case_id}#signatures", 303)


@router.get("/cases/{case_id}/images")
@router.get("/cases/{case_id}/sign")
@router.get("/cases/{case_id}/erase")
async def form_again(request: Request, user: Reader, case_id: str) -> Response:
    """Leads from the address of a form, which a refusal leaves in the browser, to the case."""
    return RedirectResponse(page_of(request), 303)


@router.post("/cases/{case_id}/erase")
async def erase(
    request: Request,
    services: Served,
    user: Admin,
    case_id: str,
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Erases a case."""
    try:
        await cases.erase(services, user, case_id, reason)
    except RequestError as error:
        case = await cases.get_case(services, user, case_id)
        return _case(request, services, user, case, error=error, where="erase")
    return RedirectResponse(f"/cases/{case_id}", 303)


def _case(
    request: Request,
    services: Services,
    user: User,
    case: Case,
    how: Arrangement | None = None,
    error: RequestError | None = None,
    where: str = "",
    part: bool = False,
) -> Response:
    how = how or Arrangement()
    waiting = arranged(case.images, Arrangement(how.sort, "waiting"))
    response = page(
        request,
        "case_images.html" if part else "case.html",
        user,
        200 if error is None else error.status,
        case=case,
        how=how,
        shown=shown(case.images, how),
        sorts=SORTS,
        shows=SHOWS,
        waiting=waiting[:LISTED],
        open=case.status == OPEN,
        erased=case.status == ERASED,
        no_uploads=why_no_uploads(services, case),
        no_signature=cases.why_no_signature(case, user),
        other_model=case.model_sha256 != services.engine.identity.sha256,
        limits=services.cfg.limits,
        kept=services.cfg.images.keep,
        error=error,
        where=where,
    )
    if error is not None and error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")
