"""Decodes one frame of a DICOM file into a Pillow image, after checks of what it claims."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bcd.data.dicom import codestream
from bcd.data.dicom.colours import Layout, read_layout, to_image
from bcd.data.dicom.elements import DEFLATED
from bcd.data.dicom.parsing import MISSING, Parsed, guarded, import_pydicom, parse
from bcd.data.files import Gate, ImageError, UnreadableError
from bcd.data.opening import MAX_PIXELS, PIXELS, opened

_JPEG_8, _JPEG_12 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_RLE = "1.2.840.10008.1.2.5"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", DEFLATED, "1.2.840.10008.1.2.2")
_LIBJPEG = (
    _JPEG_8, _JPEG_12, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
)  # fmt: skip
_OPENJPEG = (
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203",
)  # fmt: skip
_LOSSY = (
    _JPEG_8, _JPEG_12, "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"
)  # fmt: skip
# UIDs of the transfer syntaxes that are read.
SYNTAXES = (*_NATIVE, _RLE, *_LIBJPEG, *_OPENJPEG)

# A pixel's buffers in Pillow, NumPy and the decoder, relative to those of a JPEG or PNG file.
_FACTOR, _FACTOR_2000 = 2, 4


@contextlib.contextmanager
def opened_frame(
    data: bytes, frame: int | None, min_size: int, gate: Gate = PIXELS
) -> Iterator[Image.Image]:
    """Opens a frame of a DICOM file, as `bcd.data.opening.opened` does it with other files.

    Args:
        data: The file.
        frame: Number of the frame, from 1 on; None for the only one.
        min_size: Smallest accepted side in pixels.
        gate: Bounds how many pixels are decoded at the same time.

    Yields:
        An image of 8 bits, grey or in colour.

    Raises:
        ImageError: It is not a picture that is read here, has several frames and none was asked
            for, is damaged, too small or too large, or the packages are not installed.
    """
    parsed = parse(data)
    if frame is None and parsed.header.frames > 1:
        raise ImageError(f"holds {parsed.header.frames} pictures")
    index = (frame or 1) - 1
    if not 0 <= index < parsed.header.frames:
        raise ImageError(f"has no picture {frame} (holds {parsed.header.frames})")
    with guarded():
        _check_syntax(parsed.file.syntax)
        layout = read_layout(parsed.dataset, parsed.file.syntax in _OPENJPEG)
        if layout.numbered and parsed.file.syntax in _LOSSY:
            raise ImageError("unsupported colours (a palette, and its numbers are not exact)")
        encapsulated = parsed.file.syntax not in _NATIVE
        if layout.allocated == 1 and (encapsulated or not parsed.file.encoding.little):
            raise ImageError("unsupported pixels (one bit, encoded or big endian)")
        cost = _refuse_size(parsed, min_size)
        encoded = _encoded(parsed, index) if encapsulated else None
        if encoded is not None:
            layout = _check_encoded(parsed, layout, encoded)
    if encoded is not None and _is_plain_jpeg(parsed.file.syntax, encoded):
        rgb = layout.colours == "RGB" and not _facts(parsed.file.syntax, encoded).marked
        with opened(codestream.as_rgb(encoded) if rgb else encoded, min_size, gate) as image:
            yield ImageOps.invert(image.convert("L")) if layout.inverted else image
        return
    with guarded(), gate.taking(cost):
        yield to_image(*_samples(parsed, index, encoded, layout), parsed)


def _check_syntax(syntax: str) -> None:
    if syntax in SYNTAXES:
        return
    name = import_pydicom().uid.UID_dictionary.get(syntax, ("unknown",))[0]
    raise ImageError(f"unsupported transfer syntax of DICOM ({name})")


def _refuse_size(parsed: Parsed, min_size: int) -> int:
    """Rejects what is too small or too large; returns how many pixels it counts as."""
    width, height = parsed.header.width, parsed.header.height
    if min(width, height) < max(min_size, 1):
        raise ImageError(f"too small ({width}x{height}, at least {max(min_size, 1)} required)")
    cost = width * height * (_FACTOR_2000 if parsed.file.syntax in _OPENJPEG else _FACTOR)
    if cost > MAX_PIXELS:
        raise ImageError(f"too large ({width}x{height})")
    return cost


def _offsets(parsed: Parsed) -> Any:
    tables = (
        parsed.dataset.get("ExtendedOffsetTable"), parsed.dataset.get("ExtendedOffsetTableLengths")
    )  # fmt: skip
    return tables if all(tables) else None


def _encoded(parsed: Parsed, index: int) -> bytes:
    """The bytes of an encoded frame; the others are passed over."""
    from pydicom.encaps import get_frame

    if parsed.pixels.end is not None:
        raise ImageError("damaged DICOM file (its pixels are not encapsulated)")
    stream = io.BytesIO(parsed.file.data)
    stream.seek(parsed.pixels.value)
    found = get_frame(
        stream, index, extended_offsets=_offsets(parsed), number_of_frames=parsed.header.frames
    )
    if not found:
        raise ImageError(f"damaged DICOM file (picture {index + 1} is empty)")
    return bytes(found)


def _facts(syntax: str, encoded: bytes) -> codestream.Facts:
    read = codestream.read_jpeg_2000 if syntax in _OPENJPEG else codestream.read_jpeg
    if (found := read(encoded)) is None:
        raise ImageError("damaged DICOM file (a picture is not encoded as it says)")
    return found


def _check_encoded(parsed: Parsed, layout: Layout, encoded: bytes) -> Layout:
    """Rejects an encoded frame that is not what the header says, before it is decoded.

    Returns:
        The layout of the samples when they are decoded.
    """
    syntax = parsed.file.syntax
    if syntax == _RLE:
        return layout
    facts = _facts(syntax, encoded)
    said = (parsed.header.width, parsed.header.height)
    if facts.size != said:
        raise ImageError(
            f"damaged DICOM file (a picture of {facts.size[0]}x{facts.size[1]}, its header says "
            f"{said[0]}x{said[1]})"
        )
    if (facts.samples, facts.bits) != (layout.samples, layout.bits):
        raise ImageError(
            f"damaged DICOM file (a picture of {facts.samples} x {facts.bits} bits, its header "
            f"says {layout.samples} x {layout.bits})"
        )
    return layout.as_rgb() if facts.transformed else layout


def _is_plain_jpeg(syntax: str, encoded: bytes) -> bool:
    """Whether it is a JPEG as files are, which is decoded as they are."""
    return syntax in (_JPEG_8, _JPEG_12) and _facts(syntax, encoded).bits == 8


def _samples(
    parsed: Parsed, index: int, encoded: bytes | None, layout: Layout
) -> tuple[NDArray[Any], Layout]:
    """Decoded samples of a frame, (height, width) or (height, width, 3), and their layout."""
    from pydicom.pixels.decoders.base import get_decoder

    header, dataset, file = parsed.header, parsed.dataset, parsed.file
    options: dict[str, Any] = {
        "rows": header.height, "columns": header.width, "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.colours, "bits_allocated": layout.allocated,
        "bits_stored": layout.bits, "pixel_representation": 0, "pixel_keyword": "PixelData",
        "planar_configuration": int(dataset.get("PlanarConfiguration") or 0),
        "number_of_frames": header.frames,
    }  # fmt: skip
    if encoded is None:
        _check_native(parsed, index, layout)
        if layout.allocated == 1:
            return _single_bits(parsed, index), layout
        options["pixel_vr"] = file.vr(parsed.pixels)
    stream = io.BytesIO(file.data)
    stream.seek(parsed.pixels.value)
    if (tables := _offsets(parsed)) is not None:
        options["extended_offsets"] = tables
    decoder = get_decoder(file.syntax)
    # Named, so that answers do not depend on what else is installed.
    plugin = "" if encoded is None else "pylibjpeg"
    if plugin and plugin not in decoder.available_plugins:
        raise UnreadableError(MISSING)
    found, facts = decoder.as_array(
        stream, index=index, decoding_plugin=plugin, raw=True, **options
    )
    return found, replace(layout, colours=str(facts["photometric_interpretation"]))


def _single_bits(parsed: Parsed, index: int) -> NDArray[np.uint8]:
    """A frame of one bit a pixel, which need not begin with a byte."""
    width, height = parsed.header.width, parsed.header.height
    first, offset = divmod(index * width * height, 8)
    source = np.frombuffer(parsed.file.data, np.uint8, offset=parsed.pixels.value + first)
    count = offset + width * height
    packed = source[: -(-count // 8)]
    bits = np.unpackbits(packed, bitorder="little", count=count)
    return np.asarray(bits[offset:].reshape(height, width), np.uint8)


def _check_native(parsed: Parsed, index: int, layout: Layout) -> None:
    """Rejects a frame that is not completely in the file."""
    pixels = parsed.header.width * parsed.header.height * layout.samples
    if layout.colours == "YBR_FULL_422":
        pixels = pixels // 3 * 2
    end = -(-pixels * layout.allocated * (index + 1) // 8)
    start, stated = parsed.pixels.value, parsed.pixels.end
    if stated is None:
        raise ImageError("damaged DICOM file (its pixels are encapsulated)")
    if start + end > min(stated, len(parsed.file.data)):
        raise ImageError("damaged DICOM file (its pixels are cut off)")
