"""Counts the pictures of a DICOM file by its first bytes, without pydicom and within limits.

The count is a claim, for which a file gets as many rows; each of them is checked when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bcd.data.dicom.elements import DEFLATED, elements, open_file
from bcd.data.dicom.header import is_dicom
from bcd.data.files import DICOM_SUFFIXES, ImageError, read_start
from bcd.data.items import Item

MOST_FRAMES = 10_000  # of a file
_NUMBER_OF_FRAMES = 0x00280008
_FEW, _FIRST = 1 << 16, 1 << 22  # bytes that are looked at, and if these do not say
_DIGITS = 12  # of a number
_MOST_ELEMENTS = 100_000


def each_frame(items: Iterator[Item]) -> Iterator[Item]:
    """Yields items; a DICOM file with several pictures becomes an item for each of them.

    The second picture of `file.dcm` is called `file.dcm#2`.
    """
    for item in items:
        count = 1 if item.reason or item.frame is not None else _count(item)
        if count == 1:
            yield item
        elif count > MOST_FRAMES:
            yield Item(item.name, reason=f"holds {count} pictures (at most {MOST_FRAMES})")
        else:
            for number in range(1, count + 1):
                yield replace(item, name=f"{item.name}#{number}", frame=number)


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
        file = open_file(start, _FIRST)
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


def _count(item: Item) -> int:
    if item.data is not None:
        if not is_dicom(item.data):
            return 1
        return count_frames(item.data[:_FIRST], len(item.data)) or 1
    assert item.path is not None
    if item.path.suffix.lower() not in DICOM_SUFFIXES:
        return 1
    for most in (_FEW, _FIRST):
        try:
            found = count_frames(*read_start(item.path, most))
        except ImageError:
            return 1
        if found is not None:
            return found
    return 1
