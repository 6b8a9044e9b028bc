"""Finds the data elements of a DICOM file, without reading what is in them.

pydicom makes objects of all sequences that come before the pixels; an item of eight bytes becomes
a thousand. Here sequences are passed over, however deeply they are nested and however many items
they have, and pydicom gets only the elements that are needed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bcd.data.dicom.header import is_dicom
from bcd.data.files import MAX_BYTES, ImageError

IMPLICIT, DEFLATED, BIG_ENDIAN = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)

PIXEL_DATA = 0x7FE00010
_OTHER_PIXELS = (0x7FE00008, 0x7FE00009)  # floats
_SYNTAX, _SOP_CLASS = 0x00020010, 0x00020002
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")

MOST_ELEMENTS = 300_000  # that are passed over, with those in sequences
_MOST_META = 1000  # of the file's meta information
_DEEPEST = 64  # sequences in sequences
_LONGEST = 1 << 20  # bytes of an element that is needed
_START = 132  # of the file's meta information


@dataclass(frozen=True)
class Encoding:
    """How a data set is encoded: implicit VRs or explicit ones, and the order of bytes."""

    implicit: bool
    little: bool


EXPLICIT = Encoding(implicit=False, little=True)


@dataclass(frozen=True)
class Element:
    """Where an element is.

    Attributes:
        tag: Its group and number.
        start: Place of the element.
        value: Place of its value.
        end: Place after it; None if its length is not stated.
    """

    tag: int
    start: int
    value: int
    end: int | None


@dataclass(frozen=True)
class File:
    """A DICOM file, inflated if it was deflated.

    Attributes:
        data: The bytes.
        syntax: UID of the transfer syntax.
        kind: UID of the SOP class, by the file's meta information; empty if it has none.
        start: Where the data set begins.
        encoding: Of the data set.
    """

    data: bytes
    syntax: str
    kind: str
    start: int
    encoding: Encoding

    def vr(self, element: Element) -> str:
        """The VR of an element; empty if it is implicit."""
        head = _head(self.data, element.start, self.encoding)
        return "" if head is None else head[1].decode("ascii")


def open_file(data: bytes, first: int | None = None) -> File:
    """Reads the meta information.

    Args:
        data: A DICOM file, or the first part of one.
        first: Number of bytes that are inflated if it is deflated; None for all.

    Raises:
        ImageError: It is none, has no transfer syntax, or expands beyond `MAX_BYTES`.
    """
    if not is_dicom(data):
        raise ImageError("not a DICOM file (no prefix 'DICM')")
    uids, start = {}, _START
    for element in _walk(data, _START, EXPLICIT, _MOST_META, group=2):
        start = element.end or len(data)
        if element.tag in (_SYNTAX, _SOP_CLASS):
            uids[element.tag] = data[element.value : start].decode("ascii", "replace").strip(" \0")
    syntax = uids.get(_SYNTAX, "")
    if not syntax:
        raise ImageError("damaged DICOM file (no transfer syntax)")
    if syntax == DEFLATED:
        data, start = _inflated(data, start, first), 0
    encoding = Encoding(implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    return File(data, syntax, uids.get(_SOP_CLASS, ""), start, encoding)


def _inflated(data: bytes, start: int, first: int | None) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflater.decompress(memoryview(data)[start:], first or MAX_BYTES + 1)
    except zlib.error as error:
        raise ImageError("damaged DICOM file (deflated)") from error
    if len(found) > MAX_BYTES:
        raise ImageError(f"too large (expands beyond {MAX_BYTES / 1e6:.0f} MB)")
    return found


def elements(file: File, most: int = MOST_ELEMENTS) -> Iterator[Element]:
    """Yields the elements of the data set, not those in sequences, up to the pixels.

    The last one is that of the pixels. A file that is cut off before ends early.

    Args:
        file: The file.
        most: Number of elements, with those in sequences.

    Raises:
        ImageError: It is damaged, or holds too much.
    """
    last = 0
    for element in _walk(file.data, file.start, file.encoding, most):
        if element.tag <= last:
            raise ImageError("damaged DICOM file (its elements are not in order)")
        last = element.tag
        yield element
        if element.tag == PIXEL_DATA or element.tag in _OTHER_PIXELS:
            return


def read_elements(file: File, found: Collection[Element], longest: int = _LONGEST) -> Any:
    """Has pydicom read some elements.

    Args:
        file: Where they are.
        found: The elements.
        longest: Bytes of an element; longer ones are refused.

    Returns:
        A data set of pydicom.

    Raises:
        ImageError: An element is cut off, or too long.
    """
    from pydicom.filereader import read_dataset

    for element in found:
        if element.end is None or element.end - element.start > longest:
            raise ImageError("damaged DICOM file (an element is too long)")
        if element.end > len(file.data):
            raise ImageError("damaged DICOM file (cut off)")
    parts = b"".join(file.data[element.start : element.end] for element in found)
    return read_dataset(io.BytesIO(parts), file.encoding.implicit, file.encoding.little)


def _walk(
    data: bytes, place: int, encoding: Encoding, most: int, group: int | None = None
) -> Iterator[Element]:
    """Yields elements of the top level, or of one group; there may not be too many in all."""
    left = [most]
    # Another group may be encoded in another way.
    only = None if group is None else group.to_bytes(2, "little")
    while only in (None, data[place : place + 2]):
        head = _head(data, place, encoding)
        if head is None:
            return
        tag, vr, length, value = head
        end: int | None = value + length
        if length == _UNDEFINED:
            # What is in an element of unknown kind has implicit VRs, whatever the rest has.
            inner = Encoding(implicit=True, little=True) if vr == b"UN" else encoding
            end = None if tag == PIXEL_DATA else _end_of_sequence(data, value, inner, left)
        element = Element(tag, place, value, end)
        _count(left)
        yield element
        if element.end is None:
            return
        place = element.end


def _count(left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise ImageError("cannot be decoded (its header holds too much)")


def _head(data: bytes, place: int, encoding: Encoding) -> tuple[int, bytes, int, int] | None:
    """Tag, VR, length and place of the value of an element; None if it is cut off."""
    order = "<" if encoding.little else ">"
    if place + 8 > len(data):
        return None
    group, number = struct.unpack_from(order + "HH", data, place)
    tag = group << 16 | number
    if encoding.implicit or group == 0xFFFE:
        return tag, b"", struct.unpack_from(order + "L", data, place + 4)[0], place + 8
    vr = bytes(data[place + 4 : place + 6])
    if not vr.isalpha() or not vr.isupper():
        raise ImageError("damaged DICOM file (an element without a type)")
    if vr not in _LONG:
        return tag, vr, struct.unpack_from(order + "H", data, place + 6)[0], place + 8
    if place + 12 > len(data):
        return None
    return tag, vr, struct.unpack_from(order + "L", data, place + 8)[0], place + 12


def _end_of_sequence(data: bytes, place: int, encoding: Encoding, left: list[int]) -> int:
    """The place after a sequence of undefined length."""
    inside = [encoding]  # of each sequence and item that is open
    while inside:
        head = _head(data, place, inside[-1])
        if head is None:
            raise ImageError("damaged DICOM file (a sequence does not end)")
        _count(left)
        tag, vr, length, value = head
        if tag in (_ITEM_END, _SEQUENCE_END):
            inside.pop()
            place = value
        elif length == _UNDEFINED:
            if len(inside) >= 2 * _DEEPEST:
                raise ImageError("cannot be decoded (its sequences are nested too deeply)")
            unknown = Encoding(implicit=True, little=True)
            inside.append(unknown if vr == b"UN" else inside[-1])
            place = value
        else:
            place = value + length
    return place


def items_end(file: File, element: Element) -> bool:
    """Whether all items of an element of undefined length are in the file, and the end of these."""
    place = element.value
    while (head := _head(file.data, place, file.encoding)) is not None:
        tag, _, length, value = head
        if tag != _ITEM:
            return tag == _SEQUENCE_END
        place = value + length
    return False


def nested(file: File, element: Element, path: Sequence[int], wanted: int) -> Iterator[bytes]:
    """Yields the values of an element in the items of nested sequences.

    Args:
        file: Where they are.
        element: The outermost sequence.
        path: Tags of the sequences in it, from the outside in.
        wanted: Tag of the element.

    Raises:
        ImageError: It is damaged.
    """
    if element.end is None or element.end > len(file.data):
        raise ImageError("damaged DICOM file (cut off)")
    yield from _nested(file, element.value, element.end, [*path], wanted)


def _nested(file: File, place: int, end: int, path: list[int], wanted: int) -> Iterator[bytes]:
    """Searches the items of a sequence, whose bytes are between two places."""
    left = [MOST_ELEMENTS]
    while place < end and (head := _head(file.data, place, file.encoding)) is not None:
        tag, _, length, value = head
        if tag not in (_ITEM, _ITEM_END, _SEQUENCE_END):
            after = value + length
            if length == _UNDEFINED:
                after = _end_of_sequence(file.data, value, file.encoding, left)
            if path and tag == path[0]:
                yield from _nested(file, value, after, path[1:], wanted)
            elif not path and tag == wanted:
                yield file.data[value:after]
            place = after
        else:  # what an item has is looked at in the same way, whether its length is stated or not
            place = value
