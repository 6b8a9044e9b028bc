"""Pages: one image of a case with its evidence and its review, and its pictures."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from bcd.serving import cases
from bcd.serving.accounts.access import Reader, Reviewer, User
from bcd.serving.api.dependencies import Served
from bcd.serving.errors import NotFoundError, RequestError, UnprocessableError
from bcd.serving.pages.arrange import Arrangement, neighbours, next_waiting
from bcd.serving.pages.render import page, page_of, wants_part
from bcd.serving.pictures import LARGE, no_evidence, pictures_of
from bcd.serving.records.cases import ERASED, OPEN, UNIDENTIFIED, Case, CaseImage
from bcd.serving.services import Services

router = APIRouter(include_in_schema=False)

VIEWS = {"image": "Image", "evidence": "Evidence", "cells": "White cells"}

# How an attribution was made, as the page says it.
METHODS = {
    "gradcam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
}


def _how(sort: str = "", show: str = "") -> Arrangement:
    return Arrangement.asked(sort, show)


How = Annotated[Arrangement, Depends(_how)]


@router.get("/cases/{case_id}/images/{image_id}")
async def show_image(
    request: Request,
    services: Served,
    user: Reader,
    how: How,
    case_id: str,
    image_id: str,
    view: str = "image",
    target: str = "",
) -> Response:
    """An image; only the picture if htmx asks for it."""
    case = await cases.get_case(services, user, case_id)
    image = cases.image_of(case, image_id)
    picture = await _picture(services, case, image, view, target)
    held = await cases.is_held(services, case, image)
    part = wants_part(request)
    return _image(request, services, user, case, image, how, picture, held, part=part)


@router.post("/cases/{case_id}/images/{image_id}/review")
async def review(
    request: Request,
    services: Served,
    user: Reviewer,
    how: How,
    case_id: str,
    image_id: str,
    finding: Annotated[str, Form()] = "",
    remark: Annotated[str, Form()] = "",
    seen: Annotated[int | None, Form()] = None,
) -> Response:
    """Records a review and leads to the next image that waits for one."""
    try:
        await cases.review(services, user, case_id, image_id, finding, remark, seen, on_page=True)
    except RequestError as error:
        case = await cases.get_case(services, user, case_id)
        image = cases.image_of(case, image_id)
        picture = await _picture(services, case, image, "image", "")
        held = await cases.is_held(services, case, image)
        return _image(
            request, services, user, case, image, how, picture, held, error, finding, remark
        )  # fmt: skip
    case = await cases.get_case(services, user, case_id)
    image = cases.image_of(case, image_id)
    if (following := next_waiting(case.images, how, image)) is None:
        return RedirectResponse(f"/cases/{case_id}#sign", 303)
    return RedirectResponse(f"/cases/{case_id}/images/{following.id}{how.query()}", 303)


@router.get("/cases/{case_id}/images/{image_id}/review")
async def form_again(request: Request, user: Reader, case_id: str, image_id: str) -> Response:
    """Leads from the address of the form, which a refusal leaves in the browser, to the image."""
    return RedirectResponse(page_of(request), 303)


@router.get("/cases/{case_id}/images/{image_id}/thumbnail.png")
async def thumbnail(services: Served, user: Reader, case_id: str, image_id: str) -> Response:
    """A small picture of the image; one that says so if the image is not held any more."""
    await cases.check_seen(services, user, case_id)
    try:
        png = await pictures_of(services).thumbnail(services, case_id, image_id)
    except (NotFoundError, UnprocessableError):
        # Not an error: the case is complete without it, and the page shows that it is missing.
        return RedirectResponse("/static/gone.svg", 303)
    return _png(png)


@router.get("/cases/{case_id}/images/{image_id}/image.png")
async def large(services: Served, user: Reader, case_id: str, image_id: str) -> Response:
    """The image."""
    await cases.check_seen(services, user, case_id)
    return _png(await pictures_of(services).thumbnail(services, case_id, image_id, LARGE))


@router.get("/cases/{case_id}/images/{image_id}/cells.png")
async def outlined(services: Served, user: Reader, case_id: str, image_id: str) -> Response:
    """The image with its white cells outlined."""
    await cases.check_seen(services, user, case_id)
    return _png(await pictures_of(services).outlined(services, case_id, image_id))


@router.get("/cases/{case_id}/images/{image_id}/evidence.png")
async def evidence(
    services: Served, user: Reader, case_id: str, image_id: str, target: str = ""
) -> Response:
    """The image with the places that raise the log-odds of a class."""
    case = await cases.get_case(services, user, case_id)
    image = cases.image_of(case, image_id)
    if why := no_evidence(services, case, image, target):
        raise NotFoundError(why)
    found = await pictures_of(services).explained(
        services, case_id, image_id, target or None, case.site
    )
    return _png(found.png)


def _png(content: bytes) -> Response:
    # Shared tablets: pictures do not stay in the browser's cache after the user has logged out.
    return Response(content, media_type="image/png")


async def _picture(
    services: Services, case: Case, image: CaseImage, view: str, target: str
) -> dict[str, str]:
    """What to show of an image: `view`, `target`, `source` and `caption`, or why there is none."""
    view = view if view in VIEWS else "image"
    found = {"view": view, "target": "", "source": "", "caption": "", "missing": ""}
    held, here = pictures_of(services), f"/cases/{case.id}/images/{image.id}"
    if case.status == ERASED:
        return found | {"missing": "The images of this case were erased."}
    if image.answer.error:
        return found | {"missing": _UNREADABLE}
    try:
        if view == "evidence":
            return found | await _explained(services, case, image, target, here)
        if view == "cells":
            await held.outlined(services, case.id, image.id)
            caption = (
                "White cells are outlined as bcd cells finds them; it may miss some. The model "
                "does not see this."
            )
            return found | {"source": f"{here}/cells.png", "caption": caption}
        await held.thumbnail(services, case.id, image.id, LARGE)
    except NotFoundError:
        return found | {"missing": _GONE}
    except RequestError as error:
        return found | {"missing": f"There is no picture: {error.detail}"}
    return found | {
        "source": f"{here}/image.png",
        "caption": _of_dicom(image) or "The image as it was uploaded.",
    }


_UNREADABLE = (
    "There is no picture: the file could not be read as an image. Nothing of it is kept but its "
    "hash."
)
_GONE = "The server did not keep this image: nothing of it is left but its hash and its answer."


def _of_dicom(image: CaseImage) -> str:
    return f"Frame {image.source.frame} of the DICOM file." if image.source else ""


async def _explained(
    services: Services, case: Case, image: CaseImage, target: str, here: str
) -> dict[str, str]:
    target = target or image.answer.predicted or ""
    if why := no_evidence(services, case, image, target):
        return {"missing": why}
    made = await pictures_of(services).explained(services, case.id, image.id, target, case.site)
    method = METHODS.get(made.method, made.method)
    if made.empty:
        caption = f"No place of the image raises the log-odds of {made.target} ({method})."
    else:
        caption = (
            f"Where the image raises the log-odds of {made.target} ({method}). It shows what the "
            "model used, not whether that is right. Colours from blue over green to yellow: the "
            "more yellow, the more evidence. White lines surround the 5 % of the picture with the "
            "most evidence; they are not outlines of cells."
        )
    query = urlencode({"target": target})
    return {"target": target, "source": f"{here}/evidence.png?{query}", "caption": caption}


def _image(
    request: Request,
    services: Services,
    user: User,
    case: Case,
    image: CaseImage,
    how: Arrangement,
    picture: dict[str, str],
    held: bool,
    error: RequestError | None = None,
    finding: str = "",
    remark: str = "",
    part: bool = False,
) -> Response:
    previous, following = neighbours(case.images, how, image)
    return page(
        request,
        "image_view.html" if part else "image.html",
        user,
        200 if error is None else error.status,
        case=case,
        image=image,
        how=how,
        previous=previous,
        following=following,
        views=VIEWS,
        picture=picture,
        choices=(*case.classes, UNIDENTIFIED) if held else (UNIDENTIFIED,),
        not_shown="" if held else cases.NOT_SHOWN,
        open=case.status == OPEN,
        error=error,
        finding=finding or (image.review.finding if image.review else ""),
        remark=remark,
        most=cases.REMARK,
    )
