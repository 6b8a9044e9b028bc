"""Pictures in files of several: `file.dcm#2` names the second picture of `file.dcm`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
_PICTURE = re.compile(r"(.+)#([1-9][0-9]{0,4})", re.DOTALL)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")  # a name of numbers and dots: the last number is no suffix


def has_no_suffix(name: str) -> bool:
    """Whether a file has no suffix, so that only its content says whether it is a DICOM file.

    Names that are a UID count as names without a suffix; that of a DICOMDIR does not.
    """
    plain = not os.path.splitext(name)[1] or _UID.fullmatch(name) is not None  # noqa: PTH122
    return plain and not is_dicomdir(name)


def is_dicomdir(name: str) -> bool:
    """Whether a file is the table of contents of a medium, which begins as a DICOM file does."""
    return name.upper() == "DICOMDIR"


def may_be_dicom(name: str) -> bool:
    """Whether a file has a DICOM suffix, or none at all."""
    return os.path.splitext(name)[1].lower() in DICOM_SUFFIXES or has_no_suffix(name)  # noqa: PTH122


def split_frame(path: Path) -> tuple[Path, int | None]:
    """Splits the path of an image into that of its file and the number of the picture in it.

    A file that has such a name itself is that file.

    Args:
        path: Of a file, or with `#<number>` appended.

    Returns:
        The file, and the number from 1 on; None for the only picture.
    """
    match = _PICTURE.fullmatch(path.name)
    if match is None or not may_be_dicom(match[1]) or os.path.lexists(path):
        return path, None
    file = path.with_name(match[1])
    return (file, int(match[2])) if os.path.lexists(file) else (path, None)


def join_frame(file: Path, frame: int) -> Path:
    """The path of a picture of a file."""
    return file.with_name(f"{file.name}#{frame}")


def picture_sha256(sha256: str, frame: int | None) -> str:
    """The sha256 that identifies a picture, from that of its file.

    Args:
        sha256: Of the file's bytes; empty if they are not known.
        frame: Number of the picture; None for the only one, which has the sha256 of its file.
    """
    if frame is None or not sha256:
        return sha256
    return hashlib.sha256(f"{sha256}#{frame}".encode("ascii")).hexdigest()
