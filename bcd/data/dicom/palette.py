"""Palettes of DICOM pictures, plain and segmented."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.files import ImageError

_COLOURS = ("Red", "Green", "Blue")
_MOST = 1 << 16  # entries
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


def read_palette(dataset: Any, bits: int, little: bool) -> NDArray[np.uint8]:
    """Reads the colour of each value that a sample may have.

    Values below the first one that the palette names have its first colour, those beyond the last.

    Args:
        dataset: Attributes of the picture.
        bits: Of a sample.
        little: Whether numbers in the file begin with their lower byte.

    Returns:
        RGB, (2 ** bits, 3).

    Raises:
        ImageError: There is none, or its tables are shorter than stated.
    """
    return np.stack([_table(dataset, colour, bits, little) for colour in _COLOURS], axis=1)


def _table(dataset: Any, colour: str, bits: int, little: bool) -> NDArray[np.uint8]:
    name = f"{colour}PaletteColorLookupTable"
    descriptor = dataset.get(f"{name}Descriptor")
    if descriptor is None or len(descriptor) != 3:
        raise ImageError("damaged DICOM file (no palette)")
    entries, first, depth = (int(number) for number in descriptor)
    entries = entries or _MOST
    if depth not in (8, 16) or not 0 < entries <= _MOST or first < 0:
        raise ImageError("damaged DICOM file (palette)")
    plain, segmented = (dataset.get(key) for key in (f"{name}Data", f"Segmented{name}Data"))
    if segmented:
        words = np.frombuffer(segmented, "<u2" if little else ">u2").tolist()
        values = np.array(_expand(words, entries), np.int64)
    else:
        values = _plain(plain or b"", entries, little)
    if len(values) < entries:
        raise ImageError("damaged DICOM file (its palette is too short)")
    table = np.asarray(values >> 8 if values.max() > 0xFF or depth == 16 else values, np.uint8)
    return table[np.clip(np.arange(1 << bits) - first, 0, entries - 1)]


def _plain(data: bytes, entries: int, little: bool) -> NDArray[Any]:
    if len(data) >= 2 * entries:
        return np.frombuffer(data, "<u2" if little else ">u2", entries)
    if not little:
        raise ImageError("unsupported palette (8 bits, big endian)")
    return np.frombuffer(data, np.uint8)[:entries]


def _expand(words: list[int], entries: int) -> list[int]:
    """Expands a segmented table to no more values than it has entries."""
    found: list[int] = []
    place = 0
    while place + 1 < len(words) and len(found) < entries:
        if words[place] == _INDIRECT:
            _copy_segments(words, place, found, entries)
            place += 4
        else:
            place = _segment(words, place, found)
    return found[:entries]


def _copy_segments(words: list[int], place: int, found: list[int], entries: int) -> None:
    """Expands segments again that are elsewhere in the table."""
    count, low, high = words[place + 1 : place + 4]
    other = (high << 16 | low) // 2
    for _ in range(count):
        if len(found) >= entries:
            return
        if words[other] == _INDIRECT:
            raise ImageError("damaged DICOM file (palette)")
        other = _segment(words, other, found)


def _segment(words: list[int], place: int, found: list[int]) -> int:
    """Expands one segment; returns the place after it."""
    kind, count = words[place], words[place + 1]
    if kind == _DISCRETE:
        found += words[place + 2 : place + 2 + count]
        return place + 2 + count
    if kind != _LINEAR or not found:
        raise ImageError("damaged DICOM file (palette)")
    found += np.rint(np.linspace(found[-1], words[place + 2], count + 1)[1:]).astype(int).tolist()
    return place + 3
