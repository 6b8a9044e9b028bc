"""What an encoded frame says about itself, before it is decoded: JPEG, JPEG-LS and JPEG 2000."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # start of frame
_SIZ, _COD = b"\xff\x51", b"\xff\x52"
_SCAN, _END, _TILE_PART = 0xDA, 0xD9, 0x90
# In what a scan encodes, a byte below 0x80 follows 0xFF.
_MARKER = re.compile(rb"\xff[\x80-\xff]")
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class Facts:
    """What a frame says about itself.

    Attributes:
        size: Width and height in pixels.
        samples: Number of them in a pixel.
        bits: Of a sample.
        marked: Whether it says itself which colours it has, by a JFIF or Adobe marker or letters.
        transformed: Whether decoding undoes a transformation of colours (JPEG 2000).
    """

    size: tuple[int, int]
    samples: int
    bits: int
    marked: bool = False
    transformed: bool = False


def read_jpeg(data: bytes) -> Facts | None:
    """Facts of a JPEG or JPEG-LS stream; None if it is damaged."""
    place, marked = 2, False
    if data[:2] != b"\xff\xd8":
        return None
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        kind = data[place + 1]
        if kind == 0xFF or kind in _STANDALONE:
            place += 1 if kind == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        content = data[place + 4 : place + 2 + length]
        marked |= (kind == 0xE0 and content.startswith(b"JFIF")) or (
            kind == 0xEE and content.startswith(b"Adobe")
        )
        if kind in _FRAMES:
            if len(content) < 6:
                return None
            bits, height, width, samples = struct.unpack_from(">BHHB", content)
            letters = bytes(content[6 : 6 + 3 * samples : 3]).upper() == b"RGB"
            return Facts((width, height), samples, bits, marked or letters)
        if kind == _SCAN:
            return None
        place += 2 + length
    return None


def read_jpeg_2000(data: bytes) -> Facts | None:
    """Facts of a JPEG 2000 codestream, which may be in a JP2 file.

    None if it is damaged, has samples with a sign, or of different depths.
    """
    start = data.find(b"\xff\x4f" + _SIZ)
    if start < 0 or start + 46 > len(data):
        return None
    right, bottom, left, top = struct.unpack_from(">LLLL", data, start + 8)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    depths = set(data[start + 42 : start + 42 + 3 * samples : 3])  # the highest bit is the sign
    if len(depths) != 1 or (depth := depths.pop()) > 0x7F:
        return None
    style = data.find(_COD, start + 44)
    transformed = 0 <= style < len(data) - 9 and data[style + 8] == 1
    return Facts((right - left, bottom - top), samples, depth + 1, transformed=transformed)


def is_whole_jpeg(data: bytes) -> bool:
    """Whether a JPEG or JPEG-LS stream has its end; some decoders make up what is missing.

    Bytes after the end do not matter.
    """
    place = 2
    while place + 2 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == _END:
            return True
        if kind == 0xFF or kind in _STANDALONE:
            place += 1 if kind == 0xFF else 2
        elif place + 4 > len(data):
            return False
        else:
            place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
            if kind == _SCAN:
                place = _after_scan(data, place)
    return False


def _after_scan(data: bytes, place: int) -> int:
    """The place of the marker that ends a scan, or of the end of the data."""
    for found in _MARKER.finditer(data, place):
        if data[found.start() + 1] not in _STANDALONE:
            return found.start()
    return len(data)


def is_whole_jpeg_2000(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream, which may be in a JP2 file, has all tile-parts and its end.

    Bytes after the end do not matter.
    """
    start = data.find(b"\xff\x4f" + _SIZ)
    place = start + 2
    while start >= 0 and place + 4 <= len(data) and data[place] == 0xFF:
        kind, (length,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        if kind == _TILE_PART:
            if place + 10 > len(data):
                return False
            (length,) = struct.unpack_from(">L", data, place + 6)
            if not length:  # up to the end, which is not told otherwise
                return data.rstrip(b"\0").endswith(b"\xff\xd9")
            if length < 14:
                return False
            length -= 2
        place += 2 + length
        if data[place : place + 2] == b"\xff\xd9":
            return True
    return False


def as_rgb(jpeg: bytes) -> bytes:
    """A JPEG stream with a marker that says that its samples are RGB."""
    return jpeg[:2] + _ADOBE_RGB + jpeg[2:]
