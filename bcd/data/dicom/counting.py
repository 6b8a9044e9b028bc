"""Makes an item of each picture in DICOM files of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bcd.data.dicom.claims import FIRST, count_frames, count_in_file, too_many
from bcd.data.dicom.header import is_dicom
from bcd.data.items import Item


def each_frame(items: Iterator[Item]) -> Iterator[Item]:
    """Yields items; a DICOM file with several pictures becomes an item for each of them.

    The second picture of `file.dcm` is called `file.dcm#2`.
    """
    for item in items:
        count = 1 if item.reason or item.frame is not None else _count(item)
        if count == 1:
            yield item
        elif why := too_many(count):
            yield Item(item.name, reason=why)
        else:
            for number in range(1, count + 1):
                yield replace(item, name=f"{item.name}#{number}", frame=number)


def _count(item: Item) -> int:
    if item.data is None:
        assert item.path is not None
        return count_in_file(item.path)
    if not is_dicom(item.data):
        return 1
    return count_frames(item.data[:FIRST], len(item.data)) or 1
