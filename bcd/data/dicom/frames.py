"""Decodes one frame of a DICOM file into a Pillow image, after checks of what it claims."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bcd.data.dicom import codestream
from bcd.data.dicom.colours import Layout, read_layout, to_image
from bcd.data.dicom.elements import DEFLATED, items_end
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

_SEVERAL = "(several are read only of files named .dcm, or without a suffix, by their first 4 MB)"
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
        raise ImageError(f"holds {parsed.header.frames} pictures {_SEVERAL}")
    index = (frame or 1) - 1
    if not 0 <= index < parsed.header.frames:
        raise ImageError(f"has no picture {frame} (holds {parsed.header.frames})")
    with guarded():
        _checked_layout(parsed)
        _refuse_size(parsed, min_size)
        source = Source.of(parsed, index)
    with _opened(parsed, source, min_size, gate) as image:
        yield image


def decode_tile(parsed: Parsed, frame: bytes) -> NDArray[np.uint8]:
    """Decodes one frame of a file of which only the header was parsed.

    Args:
        parsed: The file.
        frame: Native samples, or an encoded frame.

    Returns:
        RGB, (height, width, 3).

    Raises:
        ImageError: As in `opened_frame`.
    """
    with _opened(parsed, Source.alone(parsed, frame), 1, PIXELS) as image:
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class Source:
    """Where a frame is read from.

    Attributes:
        stream: At the pixels.
        index: Number of the frame in these, from 0 on.
        frames: Number of frames in these.
        encoded: The frame's bytes if it is encoded.
    """

    stream: io.BytesIO
    index: int
    frames: int
    encoded: bytes | None

    @classmethod
    def of(cls, parsed: Parsed, index: int) -> Source:
        """A frame of a file that is in memory."""
        stream = io.BytesIO(parsed.file.data)
        stream.seek(parsed.pixels.value)
        encoded = None
        if is_native(parsed):
            _check_native(parsed, index)
        else:
            encoded = _encoded(parsed, stream, index)
        return cls(stream, index, parsed.header.frames, encoded)

    @classmethod
    def alone(cls, parsed: Parsed, frame: bytes) -> Source:
        """A frame that was read from a file."""
        from pydicom.encaps import encapsulate

        if is_native(parsed):
            return cls(io.BytesIO(frame), 0, 1, None)
        return cls(io.BytesIO(encapsulate([frame])), 0, 1, frame)


def is_native(parsed: Parsed) -> bool:
    """Whether samples are stored as they are."""
    return parsed.file.syntax in _NATIVE


@contextlib.contextmanager
def _opened(parsed: Parsed, source: Source, min_size: int, gate: Gate) -> Iterator[Image.Image]:
    encoded = source.encoded
    with guarded():
        layout = _checked_layout(parsed)
        cost = _refuse_size(parsed, min_size)
        if encoded is not None:
            layout = _check_encoded(parsed, layout, encoded)
    if encoded is not None and _is_plain_jpeg(parsed.file.syntax, encoded):
        rgb = layout.colours == "RGB" and not _facts(parsed.file.syntax, encoded).marked
        with opened(codestream.as_rgb(encoded) if rgb else encoded, min_size, gate) as image:
            yield ImageOps.invert(image.convert("L")) if layout.inverted else image
        return
    with guarded(), gate.taking(cost):
        yield to_image(*_samples(parsed, source, layout), parsed)


def _checked_layout(parsed: Parsed) -> Layout:
    _check_syntax(parsed.file.syntax)
    layout = read_layout(parsed.dataset, parsed.file.syntax in _OPENJPEG)
    if layout.numbered and parsed.file.syntax in _LOSSY:
        raise ImageError("unsupported colours (a palette, and its numbers are not exact)")
    if layout.allocated == 1 and not (is_native(parsed) and parsed.file.encoding.little):
        raise ImageError("unsupported pixels (one bit, encoded or big endian)")
    return layout


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


def _encoded(parsed: Parsed, stream: io.BytesIO, index: int) -> bytes:
    """The bytes of an encoded frame; the others are passed over."""
    from pydicom.encaps import get_frame

    if parsed.pixels.end is not None:
        raise ImageError("damaged DICOM file (its pixels are not encapsulated)")
    if not items_end(parsed.file, parsed.pixels):
        raise ImageError("damaged DICOM file (its pixels are cut off)")
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
    whole = codestream.is_whole_jpeg_2000 if syntax in _OPENJPEG else codestream.is_whole_jpeg
    if not whole(encoded):
        raise ImageError("damaged DICOM file (a picture is cut off)")
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


def _samples(parsed: Parsed, source: Source, layout: Layout) -> tuple[NDArray[Any], Layout]:
    """Decoded samples of a frame, (height, width) or (height, width, 3), and their layout."""
    from pydicom.pixels.decoders.base import get_decoder

    header, dataset, file = parsed.header, parsed.dataset, parsed.file
    if layout.allocated == 1:
        return _single_bits(source, header.width, header.height), layout
    options: dict[str, Any] = {
        "rows": header.height, "columns": header.width, "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.colours, "bits_allocated": layout.allocated,
        "bits_stored": layout.bits, "pixel_representation": 0, "pixel_keyword": "PixelData",
        "planar_configuration": int(dataset.get("PlanarConfiguration") or 0),
        "number_of_frames": source.frames,
    }  # fmt: skip
    if source.encoded is None:
        options["pixel_vr"] = file.vr(parsed.pixels)
    elif source.frames > 1 and (tables := _offsets(parsed)) is not None:
        options["extended_offsets"] = tables
    decoder = get_decoder(file.syntax)
    # Named, so that answers do not depend on what else is installed.
    plugin = "" if source.encoded is None else "pylibjpeg"
    if plugin and plugin not in decoder.available_plugins:
        raise UnreadableError(MISSING)
    found, facts = decoder.as_array(
        source.stream, index=source.index, decoding_plugin=plugin, raw=True, **options
    )
    return found, replace(layout, colours=str(facts["photometric_interpretation"]))


def _single_bits(source: Source, width: int, height: int) -> NDArray[np.uint8]:
    """A frame of one bit a pixel, which need not begin with a byte."""
    first, offset = divmod(source.index * width * height, 8)
    count = offset + width * height
    source.stream.seek(first, io.SEEK_CUR)
    packed = np.frombuffer(source.stream.read(-(-count // 8)), np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=count)
    return np.asarray(bits[offset:].reshape(height, width), np.uint8)


def frame_bits(parsed: Parsed) -> int:
    """Number of bits of a native frame."""
    layout = _checked_layout(parsed)
    samples = parsed.header.width * parsed.header.height * layout.samples
    if layout.colours == "YBR_FULL_422":
        samples = samples // 3 * 2
    return samples * layout.allocated


def _check_native(parsed: Parsed, index: int) -> None:
    """Rejects a frame that is not completely in the file."""
    start, stated = parsed.pixels.value, parsed.pixels.end
    if stated is None:
        raise ImageError("damaged DICOM file (its pixels are encapsulated)")
    end = start - (-frame_bits(parsed) * (index + 1) // 8)
    if end > min(stated, len(parsed.file.data)):
        raise ImageError("damaged DICOM file (its pixels are cut off)")
