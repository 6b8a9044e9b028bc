"""Stores an object that a DICOM node has received."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bcd.data.dicom.header import Header
from bcd.data.items import Fault, Item
from bcd.serving.dicom import unpack
from bcd.serving.engine.turns import INTAKE, asker
from bcd.serving.errors import TooLargeError, UnprocessableError
from bcd.serving.intake.placing import Origin, deliver
from bcd.storage import digest

if TYPE_CHECKING:
    from bcd.serving.services import Services

USER = "DICOM node"  # has a space, so that it is the name of no user

# Statuses of C-STORE (PS3.4, B.2.3).
STORED, BUSY, MISMATCH, REFUSED = 0x0000, 0xA700, 0xA900, 0xC000
_SHOWN = 8  # digits of a hash in labels

# An object at which reading processes end so often, over so many seconds, is itself the reason.
_FAULTS, _LASTING = 3, 600.0
_NOTED = 1000  # objects


@dataclass(frozen=True)
class Reply:
    """What the sender of an object is told.

    Attributes:
        status: Of C-STORE.
        comment: Why it is not stored, without anything of the object; empty if it is.
        repeated: Whether it was stored before.
    """

    status: int
    comment: str = ""
    repeated: bool = False

    @property
    def outcome(self) -> str:
        """What became of the object: `stored`, `repeated`, `busy` or `refused`."""
        if self.status == STORED:
            return "repeated" if self.repeated else "stored"
        return "busy" if self.status == BUSY else "refused"


@dataclass
class Faults:
    """Objects at which reading processes have ended, which need not be their fault.

    Args:
        clock: Seconds that only increase.
    """

    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # by SOP instance

    def reply(self, sop: str, why: str) -> Reply:
        """What is said about an object that could not be read."""
        if not isinstance(why, Fault):
            return Reply(REFUSED, why)
        now = self.clock()
        count, since = self._seen.pop(sop, (0, now))
        self._seen[sop] = count + 1, since
        if len(self._seen) > _NOTED:
            del self._seen[next(iter(self._seen))]  # the one that was noted first
        lasting = count + 1 >= _FAULTS and now - since >= _LASTING
        return Reply(REFUSED if lasting else BUSY, why)


async def store(services: Services, faults: Faults, site: str, uid: str, data: bytes) -> Reply:
    """Puts the images of an object into the queue of its study's case.

    The same object again adds nothing.

    Args:
        services: Of the server.
        faults: Of the node.
        site: Of the sender.
        uid: SOP Instance UID in the sender's command.
        data: The object as a DICOM file.

    Raises:
        RequestError: There is no room for it now, or the records cannot be used.
    """
    asker.set(INTAKE)
    sop, limit = digest(uid), services.cfg.limits.image_mb
    if len(data) > limit * 1e6:
        return Reply(REFUSED, f"larger than {limit:g} MB")
    try:
        header = await services.engine.read_one(Item("", data=data, keep=()), _as_header)
        if header.sop_uid_sha256 != sop:
            return Reply(MISMATCH, "its SOP Instance UID is not that of the request")
        if not header.study_uid_sha256:
            return Reply(MISMATCH, "it has no Study Instance UID")
        name = f"DICOM object {sop[:_SHOWN]}"
        images = await unpack(services, [(name, data)], [sop[:32]])
    except (TooLargeError, UnprocessableError) as error:
        return faults.reply(sop, error.detail)
    if errors := [image.error for image in images if image.error]:
        return faults.reply(sop, next((e for e in errors if isinstance(e, Fault)), errors[0]))
    study = header.study_uid_sha256
    origin = Origin.of(USER, site, study.encode(), f"DICOM study {study[:_SHOWN]}")
    try:
        delivery = await asyncio.to_thread(deliver, services, origin, images)
    except TooLargeError as error:
        return Reply(REFUSED, error.detail)
    for image in images:
        sha256 = hashlib.sha256(image.data).hexdigest()
        if delivery.known.get(image.upload, sha256) != sha256:
            return Reply(REFUSED, "other pixels than before under the same SOP Instance UID")
    return Reply(STORED, repeated=len(delivery.known) == len(images))


def _as_header(found: object) -> Header:
    assert isinstance(found, Header)  # as it was asked for
    return found
