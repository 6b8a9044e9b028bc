"""Reads an image file into RGB pixels, whatever its mode, depth and orientation."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from bcd.config.schema import MOST_SIDE
from bcd.data.bit_depth import colour_to_8_bits, grey_to_8_bits
from bcd.data.dicom.claims import FIRST, count_frames
from bcd.data.dicom.header import is_dicom
from bcd.data.files import Encoded, Gate, ImageError, read_encoded, room_for
from bcd.data.frames import picture_sha256, split_frame
from bcd.data.opening import PIXELS, check_tags, opened
from bcd.data.workspace import Stamp, file_stamp
from bcd.errors import BcdError

# Larger images are read at half their width and height, which bounds the memory of later steps.
# Microscope cameras have fewer pixels, so ordinary images are not affected.
HALVED_ABOVE = 25_000_000

_HASHES: dict[tuple[str, Stamp], str] = {}  # sha256 of files of several pictures
_MOST_HASHES = 1000


def read_image(path: Path, min_size: int = 1, gate: Gate = PIXELS) -> NDArray[np.uint8]:
    """Reads one image.

    A DICOM file is told by its content (`bcd.data.dicom`).

    Greyscale becomes three equal channels, palettes and CMYK are converted, 16-bit values are
    brought to 8 bits by their actual depth (`bcd.data.bit_depth`), transparent pixels are composed
    on white, and EXIF rotation is applied. An image of more than `HALVED_ABOVE` pixels is returned
    at half its width and height, averaged over 2 x 2 pixels.

    Args:
        path: An image file, or `<file>#<number>` for a picture of a DICOM file of several.
        min_size: Smallest accepted side in pixels.
        gate: Bounds how many pixels are decoded at the same time.

    Returns:
        RGB pixels, shape (height, width, 3).

    Raises:
        ImageError: The file is missing, empty, truncated, too small, too large or not an image.
    """
    with room_for(path):
        encoded = read_encoded(path)
        return decode(encoded.data, min_size, gate, encoded.frame).pixels


def decode_image(data: bytes, min_size: int = 1, gate: Gate = PIXELS) -> NDArray[np.uint8]:
    """Decodes an encoded image as `read_image` does, from memory."""
    return decode(data, min_size, gate).pixels


@dataclass(frozen=True)
class Decoded:
    """An image and what its file says about it.

    Attributes:
        pixels: RGB, shape (height, width, 3), as `read_image` returns them.
        size: Width and height in pixels as stored, before EXIF rotation and halving.
        jpeg_tables: Sums of the luminance and the chrominance quantization table; 0 if the file is
            not a JPEG.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    jpeg_tables: tuple[int, int]


def decode(
    data: bytes,
    min_size: int = 1,
    gate: Gate = PIXELS,
    frame: int | None = None,
    whole: bool = False,
) -> Decoded:
    """Decodes an encoded image to its end.

    Args:
        data: Content of a file.
        min_size: As in `read_image`.
        gate: As in `read_image`.
        frame: Number of a picture in a DICOM file, from 1 on; None for the only one.
        whole: Whether even the largest images are returned at their full size.

    Raises:
        ImageError: As in `read_image`.
    """
    with _opened(data, min_size, gate, frame) as image:
        width, height = image.size
        tables = getattr(image, "quantization", None) or {}
        sums = sum(tables.get(0, ())), sum(tables.get(1, ()))
        # No side becomes shorter than the largest input size of a network.
        large = not whole and width * height > HALVED_ABOVE
        half = large and min(width, height) >= 2 * MOST_SIDE
        if half:  # only JPEG decodes directly to half the size
            image.draft(image.mode, (width // 2, height // 2))
        image.load()
        _refuse_unsupported(image)
        pixels = _to_array(_to_8_bits(image, data), 2 if half and image.size[0] == width else 1)
        turn = _turn(image)
        upright = pixels if turn is None else np.ascontiguousarray(turn(pixels))
        return Decoded(upright, (width, height), sums)


def _opened(
    data: bytes, min_size: int, gate: Gate, frame: int | None
) -> contextlib.AbstractContextManager[Image.Image]:
    if is_dicom(data):
        from bcd.data.dicom.frames import opened_frame

        return opened_frame(data, frame, min_size, gate)
    if frame not in (None, 1):
        raise ImageError(f"has no picture {frame}")
    return opened(data, min_size, gate)


@dataclass(frozen=True)
class ReadImage(Decoded):
    """A decoded image together with the length in bytes of its file, or of its share of that."""

    length: int


def stored_length(encoded: Encoded) -> int:
    """Bytes of an image's file; of a file of several pictures, the share of each."""
    length = len(encoded.data)
    if encoded.frame is None:
        return length
    return length // (count_frames(encoded.data[:FIRST], length) or 1)


def read_verified(path: Path, sha256: str) -> ReadImage:
    """Reads one image and checks that its bytes are the expected ones.

    The bytes of a file of several pictures are hashed once, as long as its size and times stay
    the same: its pictures are read one by one, and each time the whole file is.

    Args:
        path: The file, or `<file>#<number>` for a picture of a DICOM file of several.
        sha256: Of the image (`bcd.data.frames.picture_sha256`).

    Raises:
        BcdError: The file cannot be read as an image, or its content has changed.
    """
    try:
        with room_for(path):
            stamp = file_stamp(path)
            encoded = read_encoded(path)
            if _sha256(path, stamp, encoded) != sha256:
                raise BcdError(f"{path} has changed since the catalog was made; start again")
            decoded = decode(encoded.data, frame=encoded.frame)
            return ReadImage(**vars(decoded), length=stored_length(encoded))
    except ImageError as error:
        raise BcdError(f"{path} {error}; start again") from error


def _sha256(path: Path, stamp: Stamp, encoded: Encoded) -> str:
    """The sha256 of an image; that of a file of several pictures is remembered by its stamp."""
    if encoded.frame is None or not stamp:
        return encoded.sha256
    key = str(split_frame(path)[0]), stamp
    if key not in _HASHES:
        if len(_HASHES) >= _MOST_HASHES:
            _HASHES.clear()
        _HASHES[key] = hashlib.sha256(encoded.data).hexdigest()
    return picture_sha256(_HASHES[key], encoded.frame)


def fit(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes to (size, size, 3): area average when shrinking, bilinear when enlarging.

    The sides are scaled independently, as in the paper and in the published 224-pixel set.
    """
    height, width = image.shape[:2]
    resized: Any = image
    if height > size or width > size:
        # First only the side that shrinks: OpenCV averages only if neither side grows.
        least = (min(width, size), min(height, size))
        resized = cv2.resize(resized, least, interpolation=cv2.INTER_AREA)
    if height < size or width < size:
        resized = cv2.resize(resized, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


# Largest share of the width and the height that a scale bar in the corner takes.
BAR_WIDTH, BAR_HEIGHT = 0.2, 0.13


def mask_scale_bar(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Covers the bottom right corner with the mirror image of the area to its left.

    This is done in every image, with or without a bar, so that the cover carries no information.

    Args:
        image: RGB, shape (height, width, 3); not modified.
    """
    height, width = image.shape[:2]
    down, across = round(BAR_HEIGHT * height), round(BAR_WIDTH * width)
    covered = image.copy()
    beside = image[height - down :, width - 2 * across : width - across]
    covered[height - down :, width - across :] = beside[:, ::-1]
    return covered


def prepare(image: NDArray[np.uint8], size: int, mask: bool) -> NDArray[np.uint8]:
    """Resizes a decoded image to (size, size, 3) and covers its scale bar if requested."""
    fitted = fit(image, size)
    return mask_scale_bar(fitted) if mask else fitted


_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"}) | frozenset(
    {"CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "I;16L", "I"}
)

# How pixels are rotated upright, by their EXIF orientation.
_TURNS: dict[Any, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

_BAND = 4_000_000  # pixels converted at a time


def _refuse_unsupported(image: Image.Image) -> None:
    """Rejects a loaded image whose values cannot be brought to 8 bits without guessing."""
    if image.mode not in _MODES:
        raise ImageError(f"unsupported pixel type '{image.mode}'")


def _to_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    if image.mode.startswith("I"):
        return grey_to_8_bits(image, data)
    return colour_to_8_bits(image, data)


def _turn(image: Image.Image) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None:
    """How to rotate the image by its EXIF orientation; None if the EXIF data is damaged."""
    try:
        check_tags(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow's parser raises anything
        return None


def _to_array(image: Image.Image, shrink: int) -> NDArray[np.uint8]:
    """RGB pixels of an 8-bit image, reduced by an integer factor, in bands to save memory."""
    width, height = image.size
    if shrink == 1 and width * height <= _BAND:
        return np.array(_to_rgb(image))
    rows = max(1, _BAND // width) * shrink
    pixels = np.empty((-(-height // shrink), -(-width // shrink), 3), np.uint8)
    for top in range(0, height, rows):
        band = _to_rgb(image.crop((0, top, width, min(height, top + rows))))
        pixels[top // shrink : (top + rows) // shrink] = np.asarray(
            band.reduce(shrink) if shrink > 1 else band
        )
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any 8-bit Pillow mode to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
