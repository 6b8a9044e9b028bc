"""Reads a picture file into RGB pixels, whatever its mode, depth and orientation."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

# A slide scan of this many pixels is not a field of view; decoding it would exhaust memory.
MAX_PIXELS = 100_000_000


class PictureError(Exception):
    """A file that cannot serve as a picture; the message is the reason, in a few words."""


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
        raise PictureError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise PictureError("empty file")
    return data


def decode_picture(data: bytes, min_size: int = 1) -> NDArray[np.uint8]:
    """Decodes an encoded picture as `read_picture` does, from memory."""
    with _opened(data, min_size) as image:
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


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
        try:
            image.load()
            if image.mode not in _MODES:
                raise PictureError(f"unsupported pixel type '{image.mode}'")
        except (OSError, ValueError, SyntaxError) as error:
            raise PictureError(f"cannot be decoded ({_brief(error)})") from error
        return size


def fit(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes to (size, size, 3): area average when shrinking, bilinear when enlarging.

    The sides are scaled independently, as in the paper and in the published 224-pixel set.
    """
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    shrinks = height > size or width > size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(picture, (size, size), interpolation=method)
    return np.asarray(resized, dtype=np.uint8)


_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"}
) | {
    "LAB",
    "HSV",
    "I;16",
    "I;16B",
    "I;16L",
    "I",
}


class _opened:  # noqa: N801  (a context manager used like a function)
    """Opens encoded bytes with Pillow; every failure inside becomes a `PictureError`."""

    def __init__(self, data: bytes, min_size: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise PictureError("not a picture (content of another type)") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
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
        if isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError)):
            raise PictureError(f"cannot be decoded ({_brief(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any Pillow mode to RGB without losing depth or inventing colour."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255; the upper byte is wanted.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode not in _MODES:
        raise PictureError(f"unsupported pixel type '{image.mode}'")
    if "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
