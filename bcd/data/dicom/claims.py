"""How many pictures a DICOM file claims to hold, by its first bytes, without pydicom.

It is a claim: each of them is checked when it is read.
"""

from __future__ import annotations

from pathlib import Path

from bcd.data.dicom.elements import DEFLATED, elements, open_file
from bcd.data.dicom.header import is_dicom
from bcd.data.files import ImageError, read_start
from bcd.data.frames import may_be_dicom

MOST_FRAMES = 10_000  # of a file
FIRST = 1 << 22  # bytes that are looked at
_FEW = 1 << 16  # bytes that are looked at first
_NUMBER_OF_FRAMES = 0x00280008
_DIGITS = 12  # of a number
_MOST_ELEMENTS = 100_000


def count_frames(start: bytes, length: int) -> int | None:
    """How many pictures a file claims to hold.

    Args:
        start: Its first bytes.
        length: Number of all its bytes.

    Returns:
        1 also if it is no DICOM file, or claims more than it has bytes for; None if its first bytes
        do not say.
    """
    if not is_dicom(start):
        return 1
    try:
        file = open_file(start, FIRST)
        for element in elements(file, _MOST_ELEMENTS):
            if element.tag > _NUMBER_OF_FRAMES:
                return 1
            if element.tag == _NUMBER_OF_FRAMES:
                count = _number(file.data[element.value : element.end][:_DIGITS])
                # A deflated file has fewer bytes than its pictures.
                return count if count <= length or file.syntax == DEFLATED else 1
    except ImageError:
        pass
    return None


def _number(text: bytes) -> int:
    """A number of frames as pydicom reads it, such as `+3` or `3.0`; 1 if it is none."""
    try:
        number = float(text.strip(b" \0").decode("ascii"))
        return max(int(number), 1) if number == int(number) else 1
    except (ValueError, OverflowError):
        return 1


def count_in_file(file: Path) -> int:
    """How many pictures a file claims to hold; 1 if it does not say, or cannot be read.

    Only files named `.dcm` or `.dicom`, or without a suffix, are opened.
    """
    if not may_be_dicom(file.name):
        return 1
    for most in (_FEW, FIRST):
        try:
            found = count_frames(*read_start(file, most))
        except ImageError:
            return 1
        if found is not None:
            return found
    return 1


def too_many(count: int) -> str:
    """Why a file with more than `MOST_FRAMES` pictures is rejected; empty if it has fewer."""
    return f"holds {count} pictures (at most {MOST_FRAMES})" if count > MOST_FRAMES else ""
