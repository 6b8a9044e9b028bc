"""What may be done with a case, the same for pages and API.

Routes check the roles; everything else that a case allows or refuses is decided here or in the
records.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from bcd.serving import words
from bcd.serving.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RequestError,
    UnprocessableError,
)
from bcd.serving.pictures import pictures_of
from bcd.serving.records.cases import ERASED, OPEN, SIGNED, UNIDENTIFIED, Case, CaseImage
from bcd.serving.records.waiting import still_wait
from bcd.serving.reports.table import case_csv
from bcd.serving.sites import acting_site

if TYPE_CHECKING:
    from bcd.serving.accounts.access import User
    from bcd.serving.answers import ModelIdentity
    from bcd.serving.services import Services

NOT_SHOWN = (
    "The server cannot show this image, so the finding here can only be Unidentified, with a "
    "remark."
)

# Characters that may be typed.
LABEL, REMARK, REASON = 200, 2000, 500

PDF_SIDE = 96  # pixels of the longer side of a picture in a PDF
_AT_ONCE = 4  # pictures that one report asks for at the same time
_WRITING = threading.BoundedSemaphore(2)  # PDFs: one of 1,000 images needs seconds of a core


async def open_case(
    services: Services, user: User, label: str, site: str | None = None
) -> str:  # fmt: skip
    """Opens a case that the loaded model answers.

    Args:
        services: Of the server.
        user: Who opens it.
        label: Of the case.
        site: Whose case it is; see `acting_site`, also for what that raises.

    Returns:
        Its id.

    Raises:
        UnprocessableError: The label is empty, too long or has control characters.
    """
    label = words.cleaned(label, "label", LABEL)
    if not label:
        raise UnprocessableError("A case needs a label.")
    needed, identity = services.cfg.cases.signatures, services.engine.identity
    where = acting_site(services, user, site)
    return await run_in_threadpool(
        services.records.open_case, user.name, label, identity, needed, where
    )


async def get_case(services: Services, user: User, case_id: str) -> Case:
    """A case with its images.

    Raises:
        NotFoundError: There is none with this id, or it is of a site whose cases the user does not
            see.
    """
    case = await run_in_threadpool(services.records.case, case_id)
    _check_site(user, case.site)
    return case


async def check_seen(services: Services, user: User, case_id: str) -> str:
    """The site of a case that is not read as a whole; raises what `get_case` does."""
    site = await run_in_threadpool(services.records.site_of, case_id)
    _check_site(user, site)
    return site


def _check_site(user: User, site: str) -> None:
    if not user.sees(site):
        raise NotFoundError("There is no such case.")  # as if it were not there


def image_of(case: Case, image_id: str) -> CaseImage:
    """An image of a case.

    Raises:
        NotFoundError: The case has no such image.
    """
    for image in case.images:
        if image.id == image_id:
            return image
    raise NotFoundError("This case has no such image.")


async def review(
    services: Services,
    user: User,
    case_id: str,
    image_id: str,
    finding: str,
    remark: str,
    seen: int | None = None,
    on_page: bool = False,
) -> None:
    """Records what a person found in an image. The case's signatures so far no longer count.

    The record says whether the server could show the image. If not, somebody on the page has seen
    nothing of it, so that the finding can only be `UNIDENTIFIED`; a client of the API may have the
    image itself.

    Args:
        services: Of the server.
        user: Who reviews.
        case_id: Of the case.
        image_id: Of the image.
        finding: A class of the case's model, or `UNIDENTIFIED`.
        remark: Needed if the finding is not the model's class.
        seen: Number of reviews of this image that the person saw; None if unknown.
        on_page: Whether the person looked at the image on the server's page.

    Raises:
        ConflictError: The case is signed or erased, or somebody has reviewed the image since.
        UnprocessableError: The finding is unknown, or the remark is missing or not valid.
    """
    remark = words.cleaned(remark, "remark", REMARK, lines=True)
    case = await get_case(services, user, case_id)
    image = image_of(case, image_id)
    if case.status != OPEN:
        raise ConflictError(closed(case))
    if finding not in (*case.classes, UNIDENTIFIED):
        raise UnprocessableError("Choose one of the classes, or Unidentified.")
    if finding != image.answer.predicted and not remark:
        raise UnprocessableError(
            "This finding differs from the model's answer: say why in the remark."
        )
    held = await is_held(services, case, image)
    if on_page and not held and finding != UNIDENTIFIED:
        raise UnprocessableError(NOT_SHOWN)
    await run_in_threadpool(
        services.records.review, user.name, case_id, image_id, finding, remark, seen, held
    )


async def is_held(services: Services, case: Case, image: CaseImage) -> bool:
    """Whether the server has an image and can show it."""
    if image.answer.error:
        return False
    try:
        return await run_in_threadpool(services.records.image, case.id, image.id) is not None
    except RequestError:  # changed, or not to be decrypted
        return False


def why_no_signature(case: Case, user: User) -> str:
    """Why a user cannot sign a case; empty if they can."""
    if case.status != OPEN:
        return closed(case)
    if case.queued:
        return still_wait(case.queued)
    if not case.images:
        return "This case has no images."
    if case.waiting:
        return (
            f"{case.waiting} of {len(case.images)} images were referred and nobody has reviewed "
            f"them."
        )
    if any(signature.by == user.name for signature in case.signatures):
        return "You have signed this case. The second signature has to be another person's."
    return ""


async def sign(
    services: Services, user: User, case_id: str, version: int, password: str = ""
) -> None:
    """Signs a case.

    Args:
        services: Of the server.
        user: Who signs.
        case_id: Of the case.
        version: Of the case that the person saw.
        password: Of the user, asked for again if they are logged in with a session.

    Raises:
        ConflictError: Something waits, the case has changed, or see `why_no_signature`.
        ForbiddenError: The password is wrong.
    """
    case = await get_case(services, user, case_id)
    if why := why_no_signature(case, user):
        raise ConflictError(why)
    if version != case.version:
        raise ConflictError("This case has changed since you opened it. Look again, then sign.")
    if user.how == "session":
        confirmed = await run_in_threadpool(services.accounts.confirm, user, password)
        if not confirmed:
            raise ForbiddenError("The password is wrong. The case is not signed.")
    await run_in_threadpool(services.records.sign, user.name, case_id, version)


async def erase(services: Services, user: User, case_id: str, why: str) -> None:
    """Erases images, names, label and remarks of a case.

    Raises:
        UnprocessableError: No reason is given.
    """
    why = words.cleaned(why, "reason", REASON)
    if not why:
        raise UnprocessableError("Say why the case is erased.")
    await check_seen(services, user, case_id)
    await run_in_threadpool(services.records.erase, user.name, case_id, why)
    pictures_of(services).forget(case_id)


async def csv_report(services: Services, user: User, case_id: str) -> bytes:
    """A case as CSV, UTF-8."""
    case = await get_case(services, user, case_id)
    head = await run_in_threadpool(services.records.head)
    return (await run_in_threadpool(case_csv, case, head)).encode()


async def pdf_report(services: Services, user: User, case_id: str) -> bytes:
    """A case as PDF, with pictures of the images that are held.

    Raises:
        BusyError: Other reports are being written.
    """
    case = await get_case(services, user, case_id)
    if not _WRITING.acquire(blocking=False):
        raise BusyError("Other reports are being written: try again in a moment.", retry_after=5)
    try:
        return await write_pdf(services, case)
    finally:
        _WRITING.release()


async def write_pdf(services: Services, case: Case) -> bytes:
    """A case as PDF, however many others are being written."""
    model = await run_in_threadpool(services.records.model_of, case.model_sha256)
    room = asyncio.Semaphore(_AT_ONCE)

    async def picture(image: CaseImage) -> bytes:
        if image.answer.error:
            return b""
        async with room:
            try:
                return await pictures_of(services).thumbnail(services, case.id, image.id, PDF_SIDE)
            except RequestError:  # the report is complete without it and says that it is missing
                return b""

    made = await asyncio.gather(*map(picture, case.images))
    pictures = {image.id: png for image, png in zip(case.images, made, strict=True) if png}
    head = await run_in_threadpool(services.records.head)
    return await run_in_threadpool(_drawn, case, model, pictures, head)


def _drawn(
    case: Case, model: ModelIdentity | None, pictures: Mapping[str, bytes], head: str
) -> bytes:
    # Not at the top: reportlab and matplotlib take a sixth of the time in which a server starts.
    from bcd.serving.reports.pdf import case_pdf

    return case_pdf(case, model, pictures, head)


def closed(case: Case) -> str:
    """Why nothing in a case can be changed; empty if it can."""
    if case.status == ERASED:
        return "This case is erased."
    return "This case is signed." if case.status == SIGNED else ""
