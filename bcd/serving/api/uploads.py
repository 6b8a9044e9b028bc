"""Images of a request, read into memory: nothing uploaded is written to a file."""

from __future__ import annotations

import re

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from bcd.config.serve import LimitsConfig
from bcd.serving.errors import MediaTypeError, RequestError, TooLargeError, UnprocessableError
from bcd.storage import digest

MEGABYTE = 1_000_000
NAME_CHARACTERS = 255
_FIELDS = 16  # of a form with images, besides the images and their upload ids
_FORM = "multipart/form-data"
_UPLOAD = re.compile("[A-Za-z0-9_-]{8,128}")

# Starlette would write parts beyond 1 MB to a temporary file, which stays on the disk after a
# crash. 0 is never; the size of the whole body is limited (`bcd.serving.web.bodies`).
MultiPartParser.spool_max_size = 0


async def read_images(
    request: Request, limits: LimitsConfig, field: str = "images"
) -> list[tuple[str, bytes]]:
    """Reads the images of a request: the files of a form, or the whole body as one image.

    Args:
        request: With a body of multipart/form-data, image/*, application/dicom or
            application/octet-stream.
        limits: Of images and bytes.
        field: Name of the form's field; may occur several times.

    Returns:
        Name (as the client calls the file, at most 255 characters; empty if it has none) and bytes
        of each, in order; at least one.

    Raises:
        MediaTypeError: The body is of another type.
        TooLargeError: Too many images, or one is too large.
        RequestError: The form cannot be parsed, or contains no image.
    """
    kind = _kind(request)
    if kind == _FORM:
        found = await _of_form(request, limits, field)
    elif kind.startswith("image/") or kind in ("application/dicom", "application/octet-stream"):
        found = [("", await request.body())]
    else:
        raise MediaTypeError(
            f"Send images as multipart/form-data in the field {field!r}, or one image as the body "
            "with the type image/png, image/jpeg, application/dicom or another of images."
        )
    if not found or not any(data for _, data in found):
        raise RequestError("The request contains no image.")
    most = int(limits.image_mb * MEGABYTE)
    if any(len(data) > most for _, data in found):
        raise TooLargeError(f"An image has more than {limits.image_mb:g} MB.")
    return found


async def upload_ids(request: Request, images: int) -> list[str]:
    """What tells an upload that is sent again from a new one, for each image of a request.

    A client gives each image an id of its own in the form's field `upload`, in the order of the
    images, or the whole request one in the header `Idempotency-Key`.

    Args:
        request: Whose images have been read.
        images: Their number.

    Returns:
        A hash for each image, so that no text of the client gets into the records; empty if it
        gives no ids.

    Raises:
        UnprocessableError: An id has other than 8 to 128 letters, digits, `-` and `_`, or there
            are more or fewer of them than images.
    """
    key = request.headers.get("idempotency-key")
    if key is not None:
        given = [key] * images
    elif _kind(request) == _FORM:
        given = [str(each) for each in (await request.form()).getlist("upload")]
    else:
        given = []
    if not given:
        return []
    if len(given) != images or not all(map(_UPLOAD.fullmatch, given)):
        raise UnprocessableError(
            "Each image needs one upload id, of 8 to 128 letters, digits, - and _."
        )
    places = range(images) if key is not None else [0] * images
    return [digest(f"{each} {place}")[:32] for each, place in zip(given, places, strict=True)]


async def _of_form(request: Request, limits: LimitsConfig, field: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    try:
        form = await request.form(max_files=limits.images + 1, max_fields=limits.images + _FIELDS)
    except MultiPartException as error:
        raise _refused(error.message, limits) from error
    except Exception as error:  # Starlette's Request.form makes it an HTTPException
        if isinstance(error, RequestError):
            raise
        raise _refused(str(getattr(error, "detail", "")), limits) from error
    for key, part in form.multi_items():
        if isinstance(part, UploadFile):
            if key != field:
                raise RequestError(f"Images belong into the field {field!r}.")
            name = (part.filename or "")[:NAME_CHARACTERS]
            found.append((name, await part.read()))
            await part.close()
    if len(found) > limits.images:
        raise _too_many(limits)
    return found


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _refused(why: str, limits: LimitsConfig) -> RequestError:
    if why.startswith("Too many files"):
        return _too_many(limits)
    if why.startswith(("Too many fields", "Part exceeded")):
        return TooLargeError("The form has too many fields, or one is too long.")
    return RequestError("The form cannot be parsed as multipart/form-data.")


def _too_many(limits: LimitsConfig) -> TooLargeError:
    return TooLargeError(f"More than {limits.images} images in one request: send several.")
