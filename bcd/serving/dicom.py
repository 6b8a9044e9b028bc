"""DICOM files at the door: what goes on from here are PNGs of their frames.

A DICOM file names the patient in many places. Nothing behind `unpack` ever gets one: answers,
records, pictures and reports are about a PNG, made in a reading process, that holds only pixels.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bcd.data.dicom.header import Header, is_dicom
from bcd.data.items import Item
from bcd.data.shown import WHOLE, Picture
from bcd.serving import words
from bcd.serving.api.uploads import MEGABYTE, NAME_CHARACTERS
from bcd.serving.engine.explain import encode_png
from bcd.serving.errors import BusyError, TooLargeError, UnprocessableError
from bcd.serving.records.cases import NewImage, Source
from bcd.storage import digest

if TYPE_CHECKING:
    from bcd.serving.records.store import Records
    from bcd.serving.services import Services


async def unpack(
    services: Services, files: Sequence[tuple[str, bytes]], uploads: Sequence[str] = ()
) -> list[NewImage]:
    """Images of uploaded files: of a DICOM file a PNG of each frame, of others the file itself.

    What is a DICOM file is told by its content. One that cannot be read becomes an image without
    bytes, with the reason, so that it is not overlooked.

    Args:
        services: Of the server.
        files: Name and content of each.
        uploads: For each file a hash of the upload's id; nothing if there are no ids. Frames after
            the first get a hash of it and their number.

    Raises:
        TooLargeError: There are more images than a request may have, or they are too large.
        RequestError: As `Engine.answer`.
    """
    found: list[NewImage] = []
    room, limits = _room_of(services), services.cfg.limits
    made = 0
    given = zip(files, uploads or ("",) * len(files), strict=True)
    for number, ((name, data), upload) in enumerate(given, 1):
        if not is_dicom(data):
            found.append(NewImage(name, data, upload))
            continue
        file = _File(name, data, upload)
        header = await file.header(services)
        count = 1 if header is None else header.frames
        if count > limits.images:
            raise TooLargeError(
                f"It holds {count} pictures, at most {limits.images} are accepted (limits.images): "
                "split the file."
            )
        if len(found) + count + len(files) - number > limits.images:
            raise TooLargeError(f"More than {limits.images} images in one request: send several.")
        for frame in range(1, count + 1):
            image = await file.image(services, frame)
            made += len(image.data)
            if made > limits.request_mb * MEGABYTE:
                raise TooLargeError(
                    f"The images in the DICOM files have more than {limits.request_mb:g} MB as PNG."
                )
            room.hold(image)
            found.append(image)
    return found


async def unpack_one(services: Services, name: str, data: bytes, frame: int | None) -> NewImage:
    """One image of an uploaded file.

    Args:
        services: Of the server.
        name: Of the file.
        data: The file.
        frame: Number of the frame of a DICOM file, from 1; None for the only one.

    Raises:
        UnprocessableError: There is no such frame, it cannot be read, or several are there and
            none was chosen.
        RequestError: As `Engine.answer`.
    """
    if not is_dicom(data):
        if frame not in (None, 1):
            raise UnprocessableError("frame: only DICOM files have several.")
        return NewImage(name, data)
    file = _File(name, data, "")
    header = await file.header(services)
    if header is not None and (header.frames > 1 if frame is None else frame > header.frames):
        raise UnprocessableError(f"frame: choose one of the {header.frames} in this file.")
    image = await file.image(services, frame or 1)
    if image.error:
        raise UnprocessableError(image.error)
    _room_of(services).hold(image)
    return image


class _File:
    """An uploaded DICOM file.

    Args:
        name: Of the file.
        data: The file.
        upload: Hash of the upload's id; empty for none.
    """

    def __init__(self, name: str, data: bytes, upload: str) -> None:
        self._name, self._data, self._upload = name, data, upload
        self._sha256 = hashlib.sha256(data).hexdigest()
        self._header: Header | None = None
        self._error = ""

    async def header(self, services: Services) -> Header | None:
        """What its header says; None if it cannot be read."""
        try:
            self._header = await services.engine.read_one(
                Item("", data=self._data, keep=tuple(services.cfg.dicom.keep)), _header
            )
        except UnprocessableError as error:
            self._error = error.detail
        return self._header

    async def image(self, services: Services, frame: int) -> NewImage:
        """The image of a frame, from 1; without bytes if it cannot be read."""
        header, name, upload = self._header, self._name, self._upload
        source = Source(self._sha256, frame)
        if header is not None:
            source = replace(source, sop=header.sop_uid_sha256, frames=header.frames)
        if source.frames > 1:
            suffix = f" frame {frame}"
            name = words.file_name(name, NAME_CHARACTERS - len(suffix)) + suffix
            # The first frame has the upload's own, so that another file under the same id is seen.
            if upload and frame > 1:
                upload = digest(f"{upload} {frame}")[:32]
        data, error = b"", self._error
        if not error:
            try:
                item = Item("", data=self._data, frame=frame, picture=Picture(WHOLE))
                data = await services.engine.read_one(item, encode_png)
            except UnprocessableError as unreadable:
                error = unreadable.detail
        if len(data) > services.cfg.limits.image_mb * MEGABYTE:
            data, error = b"", "too large as PNG (limits.image_mb)"
        kept = header.kept if header else {}
        return NewImage(name, data, upload, source, kept, error)


def _header(found: object) -> Header:
    assert isinstance(found, Header)  # as it was asked for
    return found


class _Room:
    """Counts the bytes of all images that were made of DICOM files and are still in use.

    Args:
        megabytes: That there may be.
    """

    def __init__(self, megabytes: float) -> None:
        self._most, self._lock = megabytes * MEGABYTE, threading.Lock()
        self.used = 0

    def hold(self, image: NewImage) -> None:
        """Counts an image until nothing refers to it any more.

        Raises:
            BusyError: There is no room for it now.
        """
        size = len(image.data)
        with self._lock:
            if self.used + size > self._most:
                raise BusyError("Other uploads fill the memory: try again later.", retry_after=5)
            self.used += size
        weakref.finalize(image, self._give, size).atexit = False

    def _give(self, size: int) -> None:
        with self._lock:
            self.used -= size


def _room_of(services: Services) -> _Room:
    return _ROOMS.setdefault(services.records, _Room(services.cfg.limits.memory_mb))


_ROOMS: weakref.WeakKeyDictionary[Records, _Room] = weakref.WeakKeyDictionary()
