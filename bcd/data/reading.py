"""Reads a picture file into RGB pixels, whatever its mode, depth and orientation."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# A slide scan of this many pixels is not a field of view; decoding it would exhaust memory.
MAX_PIXELS = 100_000_000


class PictureError(Exception):
    """A file that cannot serve as a picture; the message is the reason, in a few words."""


class UnreadableError(PictureError):
    """A file whose bytes cannot be had now: no permission, a failing disk; it may pass."""


def read_picture(path: Path, min_size: int = 1) -> NDArray[np.uint8]:
    """Reads one picture.

    Greyscale becomes three equal channels, palettes and CMYK are converted, 16-bit greyscale keeps
    its upper 8 bits, transparency is laid on white, and EXIF rotation is applied.

    Args:
        path: A picture file of one of `SUFFIXES`.
        min_size: Smallest accepted side in pixels.

    Returns:
        RGB pixels, shape (height, width, 3).

    Raises:
        PictureError: The file is missing, empty, truncated, too small or not a picture.
    """
    return decode_picture(read_bytes(path), min_size)


def read_bytes(path: Path) -> bytes:
    """Returns a picture file's bytes; raises `PictureError` if it is not one by name or empty."""
    if path.suffix.lower() not in SUFFIXES:
        raise PictureError(f"not a picture file (type '{path.suffix or path.name}')")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise PictureError("empty file")
    return data


def decode_picture(data: bytes, min_size: int = 1) -> NDArray[np.uint8]:
    """Decodes an encoded picture as `read_picture` does, from memory."""
    with _opened(data, min_size) as image:
        image.load()
        _refuse_unsupported(image)
        return np.array(_to_rgb(_upright(image)))


def check_picture(data: bytes, min_size: int) -> tuple[int, int]:
    """Checks that an encoded picture decodes to its end, as cheaply as its format allows.

    Returns:
        Width and height in pixels, as stored (before EXIF rotation).

    Raises:
        PictureError: As in `read_picture`.
    """
    with _opened(data, min_size) as image:
        size = image.size
        # JPEG decodes at an eighth of the size many times faster and still meets a missing end.
        image.draft("RGB", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        _refuse_unsupported(image)
        return size


def jpeg_tables(data: bytes) -> tuple[int, int]:
    """Sums of the luminance and the chrominance quantisation table; 0 where it is no JPEG."""
    with _opened(data, 1) as image:
        tables = getattr(image, "quantization", None) or {}
        return sum(tables.get(0, ())), sum(tables.get(1, ()))


def fit(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes to (size, size, 3): area average when shrinking, bilinear when enlarging.

    The sides are scaled independently, as in the paper and in the published 224-pixel set.
    """
    height, width = picture.shape[:2]
    resized: Any = picture
    if height > size or width > size:
        # First the longer side alone: OpenCV averages only where neither side grows.
        least = (min(width, size), min(height, size))
        resized = cv2.resize(resized, least, interpolation=cv2.INTER_AREA)
    if height < size or width < size:
        resized = cv2.resize(resized, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


# Share of the width and the height that a scale bar in the corner takes at the most.
BAR_WIDTH, BAR_HEIGHT = 0.2, 0.13


def mask_scale_bar(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Covers the bottom right corner with the mirror image of what stands left of it.

    It does so in every picture, with a bar or without, so that the cover tells nothing either.

    Args:
        picture: RGB, shape (height, width, 3); stays as it is.
    """
    height, width = picture.shape[:2]
    down, across = round(BAR_HEIGHT * height), round(BAR_WIDTH * width)
    covered = picture.copy()
    beside = picture[height - down :, width - 2 * across : width - across]
    covered[height - down :, width - across :] = beside[:, ::-1]
    return covered


_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"}) | frozenset(
    {"CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "I;16L", "I"}
)

# How a picture is turned upright, by its EXIF orientation.
_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's parsers raise on damaged files.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)


class _opened:  # noqa: N801  (a context manager used like a function)
    """Opens encoded bytes with Pillow; every failure inside becomes a `PictureError`."""

    def __init__(self, data: bytes, min_size: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise PictureError("not a picture (content of another type)") from error
        except _DAMAGE as error:
            raise PictureError(f"cannot be decoded ({_brief(error)})") from error
        width, height = self._image.size
        if min(width, height) < min_size:
            raise PictureError(f"too small ({width}x{height}, at least {min_size} wanted)")
        if width * height > MAX_PIXELS:
            raise PictureError(f"too large ({width}x{height})")

    def __enter__(self) -> Image.Image:
        return self._image

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._image.close()
        if isinstance(error, _DAMAGE):
            raise PictureError(f"cannot be decoded ({_brief(error)})") from error


def _refuse_unsupported(image: Image.Image) -> None:
    """Refuses a loaded image whose values cannot be brought to 8 bits without guessing."""
    if image.mode not in _MODES:
        raise PictureError(f"unsupported pixel type '{image.mode}'")
    if image.mode == "I":
        low, high = np.asarray(image).min(), np.asarray(image).max()
        if low < 0 or high > 0xFFFF:
            raise PictureError(f"unsupported pixel type (values {low} to {high}, beyond 16 bits)")


def _upright(image: Image.Image) -> Image.Image:
    """Applies EXIF rotation; where the EXIF data is damaged, the picture stays as stored."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any Pillow mode to RGB without losing depth or inventing colour."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255; the upper byte is wanted.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
