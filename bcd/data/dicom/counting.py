"""Counts the pictures of a DICOM file by its first bytes, without pydicom and within limits.

The count is a claim, for which a file gets as many rows; each of them is checked when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath

from bcd.data.dicom.elements import elements, open_file
from bcd.data.dicom.header import is_dicom
from bcd.data.files import DICOM_SUFFIXES, ImageError
from bcd.data.items import Item

MOST_FRAMES = 10_000  # of a file
_NUMBER_OF_FRAMES = 0x00280008
_FIRST = 1 << 22  # bytes that are looked at
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
            yield replace(item, reason=f"holds {count} pictures (at most {MOST_FRAMES})", data=None)
        else:
            for number in range(1, count + 1):
                yield replace(item, name=f"{item.name}#{number}", frame=number)


def count_frames(start: bytes, length: int) -> int:
    """How many pictures a file claims to hold.

    Args:
        start: Its first bytes.
        length: Number of all its bytes.

    Returns:
        1 if it is no DICOM file, does not say, or claims more than it has bytes for.
    """
    if not is_dicom(start):
        return 1
    try:
        for element in elements(open_file(start, _FIRST), _MOST_ELEMENTS):
            if element.tag > _NUMBER_OF_FRAMES:
                break
            if element.tag == _NUMBER_OF_FRAMES:
                ...
    except (ImageError, ValueError):
        return 1
    return 1
