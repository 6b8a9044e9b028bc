"""Adding images to a case, the same for pages and API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from bcd.data.items import Fault
from bcd.serving import words
from bcd.serving.answers import ImageAnswer
from bcd.serving.cases import check_seen, closed, get_case
from bcd.serving.engine.health import AGAIN_SECONDS
from bcd.serving.errors import (
    ConflictError,
    TooLargeError,
    UnavailableError,
    UnprocessableError,
)
from bcd.serving.jobs.adding import add_all
from bcd.serving.records.cases import OPEN, Case, NewImage

if TYPE_CHECKING:
    from bcd.serving.accounts.access import User
    from bcd.serving.services import Services


@dataclass(frozen=True)
class Submitted:
    """An image that was added to a case.

    Attributes:
        id: Of the image in the case.
        name: Of the file.
        answer: Of the model.
    """

    id: str
    name: str
    answer: ImageAnswer


def why_no_uploads(services: Services, case: Case) -> str:
    """Why a case takes no images; empty if it does."""
    if case.status != OPEN:
        return closed(case)
    if case.site not in services.sites:
        site = f"the site {case.site}" if case.site else "a site without a name"
        return f"This case is of {site}, which is not set up here."
    if case.model_sha256 != services.engine.identity.sha256:
        return (
            f"This case was answered by another model ({case.model_name}, "
            f"{case.model_sha256[:12]}) than the one loaded now. Open a new case for more images."
        )
    return ""


async def submit(
    services: Services,
    user: User,
    case_id: str,
    images: Sequence[NewImage],
) -> list[Submitted]:
    """Answers images and adds them to a case. Its signatures so far no longer count.

    Files that cannot be read are added too, without an answer: they wait for a review, so that
    none is overlooked. An upload that the case has already, sent again because the answer was
    lost, adds nothing and gets the recorded answer.

    Args:
        services: Of the server.
        user: Who submits them.
        case_id: Of the case.
        images: What `bcd.serving.dicom.unpack` returns.

    Raises:
        ConflictError: The case takes no images, see `why_no_uploads`, or an upload was of another
            image.
        TooLargeError: The request or the case would have too many images, or one is too large.
        UnprocessableError: There is no image.
    """
    _check_sizes(services, images)
    case = await get_case(services, user, case_id)
    if why := why_no_uploads(services, case):
        raise ConflictError(why)
    if sent := _sent_before(case, images):
        return sent
    if len(case.images) + case.queued + len(images) > services.cfg.limits.case_images:
        raise TooLargeError(f"A case takes at most {services.cfg.limits.case_images} images.")
    answers = await answer_images(services, images, case.site)
    named = [
        (replace(image, name=words.file_name(image.name)), answer)
        for image, answer in zip(images, answers, strict=True)
    ]
    ids = await run_in_threadpool(
        services.records.add_images, user.name, case_id, services.engine.identity, named
    )
    return [
        Submitted(image_id, image.name, answer)
        for image_id, (image, answer) in zip(ids, named, strict=True)
    ]


async def answer_images(
    services: Services, images: Sequence[NewImage], site: str
) -> list[ImageAnswer]:
    """Answers images of a site; one that is known to be unreadable gets the reason in `error`.

    Raises:
        RequestError: As `Engine.answer`.
    """
    engine = services.engine
    read = [image.data for image in images if not image.error]
    answers = iter(await engine.answer(read, site))
    return [engine.refuse(image, site) if image.error else next(answers) for image in images]


async def submit_later(
    services: Services, user: User, case_id: str, images: Sequence[NewImage]
) -> list[str]:
    """Has images answered later; see `submit` and `bcd.serving.jobs.adding.add_all`.

    Raises:
        UnavailableError: A process that read a DICOM file has ended, which need not be the file's
            fault. Nothing was added, as only who has the file can try again.
        RequestError: As those do.
    """
    _check_sizes(services, images)
    if any(isinstance(image.error, Fault) for image in images):
        why = "A process that read a DICOM file has ended: nothing was added; send it again later."
        raise UnavailableError(why, round(AGAIN_SECONDS))
    await check_seen(services, user, case_id)
    return await run_in_threadpool(add_all, services, user.name, case_id, images)


def _check_sizes(services: Services, images: Sequence[NewImage]) -> None:
    limits = services.cfg.limits
    if not images:
        raise UnprocessableError("No image was uploaded.")
    if len(images) > limits.images:
        raise TooLargeError(f"A request takes at most {limits.images} images.")
    if any(len(image.data) > limits.image_mb * 1e6 for image in images):
        raise TooLargeError(f"An image may have at most {limits.image_mb:g} MB.")


def _sent_before(case: Case, images: Sequence[NewImage]) -> list[Submitted]:
    """The images of uploads that the case has; empty unless it has all, with these contents."""
    known = {image.upload: image for image in case.images if image.upload}
    found = [known[image.upload] for image in images if image.upload in known]
    same = [
        before.answer.sha256 == image.sha256 for before, image in zip(found, images, strict=False)
    ]
    if len(found) < len(images) or not all(same):
        return []
    return [Submitted(image.id, image.name, image.answer) for image in found]
