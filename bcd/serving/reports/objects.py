"""A case as DICOM objects, for the systems of a hospital.

They are anonymous: the patient is the case's id, in a study of its own, unless `dicom.keep` says
which attributes of DICOM uploads are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from bcd.data.items import Item
from bcd.data.shown import WHOLE, Picture, reduced
from bcd.explain.overlay import TOP, draw_overlay, top_pixels
from bcd.explain.placing import density_in_image
from bcd.interop.dicom.content import installed
from bcd.serving.cases import closed, image_of
from bcd.serving.engine.sites import way_of
from bcd.serving.errors import BusyError, ConflictError, UnavailableError, UnprocessableError
from bcd.serving.pictures import content_of, no_evidence, pictures_of
from bcd.serving.records.cases import ERASED, SIGNED, Case, CaseImage
from bcd.serving.reports.objects_content import (
    PATIENT_ID,
    answer_of,
    last_change,
    patient_of,
    producer_of,
    source_of,
    utc,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from bcd.interop.dicom.content import Evidence, Producer
    from bcd.interop.dicom.source import Source
    from bcd.serving.services import Services

Pixels = NDArray[np.uint8]

SIDE = 2048  # pixels of the longer side of heat maps and captures at most
MOST = 500  # images of a report: they need 28 ms of a core each
_MAKING = threading.BoundedSemaphore(2)


async def report_object(services: Services, case: Case) -> bytes:
    """A structured report about all images of a case.

    Raises:
        ConflictError: The case is erased or empty, or its images are of different patients.
        UnprocessableError: It has too many images.
        BusyError: Other objects are being made.
        UnavailableError: highdicom is not installed.
    """
    _check(case)
    if not case.images:
        raise ConflictError("This case has no images.")
    if len(case.images) > MOST:
        raise UnprocessableError(f"A DICOM report takes at most {MOST} images: use the PDF.")
    producer = await producer_of(services, case)
    version = await run_in_threadpool(services.records.version_of, case)

    def make() -> Dataset:
        from bcd.interop.dicom.content import Signed
        from bcd.interop.dicom.structured_report import Reported, report

        patient = patient_of(case.images)
        images = [
            Reported(source_of(case, image, patient, 1, 1), answer_of(case, image))
            for image in case.images
        ]
        named = [image for image in case.images if PATIENT_ID in image.attributes]
        signed = None
        if case.status == SIGNED:
            last = case.signatures[-1]
            signed = Signed(last.by, utc(last.at))
        return report(
            producer,
            images,
            utc(last_change(case)),
            key=f"{case.id} {version}",
            study=source_of(case, named[0], patient, 1, 1) if named else None,
            signed=signed,
            organization=case.site,
        )

    with _one_of_few():
        return await _encoded(make)


async def heatmap_object(services: Services, case: Case, image_id: str, form: str) -> bytes:
    """A heat map of the evidence for the predicted class of an image.

    Args:
        services: Of the server.
        case: The case.
        image_id: Of the image.
        form: `parametric` or `segmentation`.

    Raises:
        ConflictError: The case is erased, or another model is loaded now.
        NotFoundError: The case has no such image, or it is not held any more.
        UnprocessableError: It has no answer.
        BusyError: Other objects are being made.
        UnavailableError: highdicom is not installed.
    """

    def make(seen: _Seen) -> Dataset:
        from bcd.interop.dicom.heatmap import parametric_map, segmentation

        about = seen.producer, seen.source, seen.evidence
        if form == "parametric":
            return parametric_map(*about, seen.density, seen.at)
        return segmentation(*about, top_pixels(seen.density), TOP, seen.at)

    with _one_of_few():
        return await _encoded(partial(make, await _look(services, case, image_id)))


async def capture_object(services: Services, case: Case, image_id: str) -> bytes:
    """An image with the evidence for its predicted class; raises what `heatmap_object` does."""

    def make(seen: _Seen) -> Dataset:
        from bcd.interop.dicom.capture import capture

        drawn = draw_overlay(seen.shown, seen.density)
        return capture(seen.producer, seen.source, seen.evidence, drawn, seen.at)

    with _one_of_few():
        return await _encoded(partial(make, await _look(services, case, image_id)))


async def image_object(services: Services, case: Case, image_id: str) -> bytes:
    """The image itself, which the other objects refer to.

    Raises:
        ConflictError: The case is erased, or the image is in a DICOM object elsewhere.
        NotFoundError: The case has no such image, or it is not held any more.
        UnprocessableError: It cannot be read.
        BusyError: Other objects are being made.
        UnavailableError: highdicom is not installed.
    """
    _check(case)
    image = image_of(case, image_id)
    producer = await producer_of(services, case)

    def make(pixels: Pixels) -> Dataset:
        from bcd.interop.dicom.capture import image_object as captured

        source = source_of(case, image, patient_of(case.images), *pixels.shape[:2])
        if source.exists:
            raise ConflictError("This image is in the DICOM object that it was uploaded as.")
        return captured(producer, source, pixels, utc(image.at))

    with _one_of_few():
        return await _encoded(partial(make, await _pixels(services, case, image)))


@dataclass(frozen=True)
class _Seen:
    """An image with its evidence, as objects need it."""

    producer: Producer
    source: Source
    evidence: Evidence
    shown: Pixels
    density: NDArray[np.float32]
    at: datetime


async def _look(services: Services, case: Case, image_id: str) -> _Seen:
    from bcd.interop.dicom.content import Evidence

    _check(case)
    image = image_of(case, image_id)
    target = image.answer.predicted
    if target is None:
        raise UnprocessableError("There is no evidence: this image has no answer.")
    if why := no_evidence(services, case, image, target):
        raise ConflictError(why)
    made = await pictures_of(services).explained(services, case.id, image.id, target, case.site)
    pixels = await _pixels(services, case, image)
    producer = await producer_of(services, case)
    match = way_of(services.engine.ways, case.site).match

    def see() -> _Seen:  # in a thread: the picture may be large
        shown = reduced(pixels, SIDE)
        rows, columns = shown.shape[:2]
        source = source_of(case, image, patient_of(case.images), *pixels.shape[:2])
        density = density_in_image(made.found, rows, columns, match)
        return _Seen(producer, source, Evidence(target, made.method), shown, density, utc(image.at))

    return await run_in_threadpool(see)


async def _pixels(services: Services, case: Case, image: CaseImage) -> Pixels:
    content = await content_of(services, case.id, image.id)
    item = Item("", data=content, picture=Picture(WHOLE))
    return await services.engine.read_one(item, lambda pixels: pixels)


@contextmanager
def _one_of_few() -> Iterator[None]:
    """Bounds how many objects are made, and images held for them, at the same time."""
    if not _MAKING.acquire(blocking=False):
        raise BusyError("Other DICOM objects are being made: try again in a moment.", retry_after=5)
    try:
        yield
    finally:
        _MAKING.release()


def _check(case: Case) -> None:
    if not installed():
        raise UnavailableError("This server makes no DICOM objects: it lacks 'bcd[dicom]'.")
    if case.status == ERASED:
        raise ConflictError(closed(case))


async def _encoded(make: Callable[[], Dataset]) -> bytes:
    from bcd.interop.dicom.content import ObjectError

    def write() -> bytes:
        from bcd.interop.dicom.making import encoded

        try:
            return encoded(make())
        except ObjectError as error:
            raise ConflictError(f"No DICOM object: {error}.") from None

    return await run_in_threadpool(write)
