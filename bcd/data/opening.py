"""Opens encoded images; before decoding, rejects those that need too much time or memory."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from bcd.data.files import Gate, ImageError

# Larger images are slide scans, not fields of view. Pillow holds four bytes per pixel.
MAX_PIXELS = 100_000_000

# Other formats have parsers of their own, some of which start other programs (PostScript).
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")

# Progressive JPEG and 16-bit colour need twice as much memory per pixel while they are decoded,
# WebP three times as much; their pixels are counted with these factors.
_PROGRESSIVE = _DEEP = 2
_WEBP = 3

# A progressive JPEG may hold any number of scans, and each goes over all pixels.
_MAX_SCANNED = 8 * MAX_PIXELS

# Pillow makes a Python object of each number in a TIFF tag.
_MAX_TAG_VALUES = 2_000_000

_MOST_PAGES = 100  # that are counted
_PREVIEW = 254  # TIFF's tag NewSubfileType

PIXELS = Gate(MAX_PIXELS)  # decoded at the same time by threads of this process


@contextlib.contextmanager
def opened(data: bytes, min_size: int, gate: Gate = PIXELS) -> Iterator[Image.Image]:
    """Opens encoded bytes with Pillow and waits for room to decode them.

    Args:
        data: A JPEG, PNG, BMP, TIFF or WebP file.
        min_size: Smallest accepted side in pixels.
        gate: Bounds how many pixels are decoded at the same time.

    Yields:
        The image, not yet decoded. Any exception raised in the block becomes an `ImageError`, as
        parsers raise various exceptions for damaged files.
    """
    try:
        if size := _webp_size(data):  # Pillow allocates two canvases when it opens one
            _refuse_size(size, min_size, _WEBP)
        elif data[:4] in _TIFF:
            check_tags(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        with image:
            cost = _refuse_size(image.size, min_size, _factor(image, data))
            _refuse_several(image, data)
            if image.format in ("JPEG", "MPO"):
                _refuse_scans(image, data)
            with gate.taking(cost):
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image (content of another type)") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large (more than {MAX_PIXELS / 1e6:.0f} megapixels)") from error
    except MemoryError as error:
        raise ImageError("cannot be decoded (takes too much memory)") from error
    except Exception as error:
        raise ImageError(f"cannot be decoded ({_brief(error)})") from error


def is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether colours are stored with 16 bits, of which Pillow keeps the upper eight."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] != 0
    bits = image.tag_v2.get(258, ()) if image.format == "TIFF" else ()  # type: ignore[attr-defined]
    return len(bits) > 1 and max(bits) == 16


def _factor(image: Image.Image, data: bytes) -> int:
    if image.info.get("progressive"):
        return _PROGRESSIVE
    if image.format == "WEBP":
        return _WEBP
    return _DEEP if is_deep_colour(image, data) else 1


def _refuse_size(size: tuple[int, int], min_size: int, factor: int) -> int:
    """Rejects images that are too small or too large; returns how many pixels one counts as."""
    width, height = size
    if min(size) < min_size:
        raise ImageError(f"too small ({width}x{height}, at least {min_size} required)")
    if width * height * factor > MAX_PIXELS:
        raise ImageError(f"too large ({width}x{height})")
    return width * height * factor


def _refuse_scans(image: Image.Image, data: bytes) -> None:
    scans = data.count(b"\xff\xda")
    if scans * image.size[0] * image.size[1] > _MAX_SCANNED:
        raise ImageError(f"cannot be decoded ({scans} scans)")


def _refuse_several(image: Image.Image, data: bytes) -> None:
    """Rejects files with several pictures, of which only the first would be looked at.

    The further ones of a JPEG (MPO) are previews that cameras and phones add to one picture.
    """
    if image.format == "TIFF":
        count = _count_pages(data)
    elif image.format in ("PNG", "WEBP"):
        count = getattr(image, "n_frames", 1)
    else:
        return
    if count > 1:
        raise ImageError(f"holds {'many' if count == _MOST_PAGES else count} pictures")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Size of a WebP file's canvas; None if it has no WebP header."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return width, height


_TIFF = {b"II*\0": ("<", 4), b"MM\0*": (">", 4), b"II+\0": ("<", 8), b"MM\0+": (">", 8)}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4} | {
    16: 8,
    17: 8,
    18: 8,
}


def check_tags(data: bytes) -> None:
    """Rejects TIFF or EXIF data whose tags claim more than the data, or too many numbers.

    Pillow copies the content of every tag, and tags may all point at the same bytes.
    """
    order, wide = _TIFF.get(data[:4], ("<", 0))
    if not wide:
        return
    entry, start = (12, 4) if wide == 4 else (20, 8)
    try:
        (offset,) = struct.unpack_from(order + ("L" if wide == 4 else "Q"), data, start)
        (count,) = struct.unpack_from(order + ("H" if wide == 4 else "Q"), data, offset)
    except struct.error:
        return  # Pillow finds no image in it
    held = numbers = 0
    first = offset + (2 if wide == 4 else 8)
    last = min(first + count * entry, len(data) - entry + 1)
    for place in range(first, last, entry):
        kind, values = struct.unpack_from(order + ("HL" if wide == 4 else "HQ"), data, place + 2)
        size = values * _TYPE_BYTES.get(kind, 0)
        held += size if size > wide else 0
        numbers += values if kind not in (1, 2, 6, 7) else 0
    if held > len(data) or numbers > _MAX_TAG_VALUES:
        raise ImageError("cannot be decoded (its tags hold too much)")


def _count_pages(data: bytes) -> int:
    """Number of pages of a TIFF, without previews and masks; at most `_MOST_PAGES`."""
    order, wide = _TIFF.get(data[:4], ("<", 4))
    offsets, counts = order + ("L" if wide == 4 else "Q"), order + ("H" if wide == 4 else "Q")
    entry, start = (12, 4) if wide == 4 else (20, 8)
    count, seen = 0, {0}
    with contextlib.suppress(struct.error):
        (offset,) = struct.unpack_from(offsets, data, start)
        while offset not in seen and len(seen) <= _MOST_PAGES:
            seen.add(offset)
            (tags,) = struct.unpack_from(counts, data, offset)
            first = offset + struct.calcsize(counts)
            (offset,) = struct.unpack_from(offsets, data, first + tags * entry)
            count += len(seen) == 2 or not _is_preview(data, order, first, tags, entry)
    return count


def _is_preview(data: bytes, order: str, first: int, tags: int, entry: int) -> bool:
    """Whether a page of a TIFF is a smaller copy or a mask of another."""
    for place in range(first, first + min(tags, _PREVIEW + 1) * entry, entry):
        if struct.unpack_from(order + "H", data, place)[0] == _PREVIEW:
            value = place + (8 if entry == 12 else 12)
            return bool(struct.unpack_from(order + "L", data, value)[0] & 5)
    return False


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
