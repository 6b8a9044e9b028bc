"""Reduces images of more than 8 bits to 8, by the depth that the file states, else by its values.

Microscope cameras with 10, 12 or 14 bits write 16-bit files; read as 16 bits they are nearly black.
If a file does not state its depth, the smallest common depth that holds its largest value is used.
The background of a bright-field image nearly reaches the end of the camera's range; an image that
stays below half of it becomes brighter than it was, by a power of two.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcd.data.files import ImageError
from bcd.data.opening import is_deep_colour

_USUAL = (8, 10, 12, 14, 16)

_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE = 258, 262, 281  # tags of TIFF


def grey_to_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Converts a decoded grey image of mode I or I;16 to mode L.

    Raises:
        ImageError: It holds values below 0 or beyond 16 bits.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"unsupported pixel type (values {low} to {high}, beyond 16 bits)")
    grey = _upper_8(values, _depth(image, data, values, high))
    if _tag(image, _PHOTOMETRIC) == 0:  # white is zero, which Pillow respects for 8 bits only
        grey = 255 - grey
    return Image.fromarray(grey)


def colour_to_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Restores colours of less than 15 bits stored as 16, which Pillow decodes to nearly black.

    Returns:
        An RGB or RGBA image; `image` itself if Pillow's upper bytes are correct.
    """
    if not is_deep_colour(image, data) or image.mode not in ("RGB", "RGBA"):
        return image
    bands: Any = image.getextrema()
    if max(high for _, high in bands[:3]) >= 1 << 6 or _significant_bits(data) == 16:
        return image
    decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    width, height = image.size
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[:2] != (height, width):
        raise ImageError("cannot be decoded (colours of 16 bits that fill less)")
    if decoded.ndim == 2 or decoded.shape[2] not in (3, 4):
        raise ImageError("cannot be decoded (colours of 16 bits that fill less)")
    colours = decoded[..., 2::-1]
    depth = _depth(image, data, colours, int(colours.max()))
    channels = [_upper_8(colours, depth)]
    if image.mode == "RGBA":
        # Not every writer that leaves colours at 12 bits does so with the alpha channel.
        alpha = decoded[..., 3:]
        channels.append(_upper_8(alpha, _smallest(max(int(alpha.max()), 1 << depth - 1))))
    return Image.fromarray(np.concatenate(channels, axis=2))


def _depth(image: Image.Image, data: bytes, values: NDArray[Any], high: int) -> int:
    """Number of significant bits of each value."""
    stored = _significant_bits(data)
    if stored is not None and 8 <= stored <= 16:
        # The standard requires values scaled to the full 16 bits; some writers do not do this.
        moved = high >> stored or not (values & ((1 << 16 - stored) - 1)).any()
        return 16 if moved else stored
    said = _tag(image, _BITS_PER_SAMPLE)
    if said is not None and 8 < said < 16:
        return said
    most = _tag(image, _MAX_SAMPLE)
    if most is not None and high <= most < 0xFFFF:
        return max(8, most.bit_length())
    return _smallest(high)


def _smallest(high: int) -> int:
    return next(depth for depth in _USUAL if high < 1 << depth)


def _upper_8(values: NDArray[Any], depth: int) -> NDArray[np.uint8]:
    return np.asarray(np.right_shift(values, depth - 8), dtype=np.uint8)


def _tag(image: Image.Image, number: int) -> int | None:
    tags = getattr(image, "tag_v2", None)
    value = None if tags is None else tags.get(number)
    value = max(value, default=None) if isinstance(value, tuple) else value
    return value if isinstance(value, int) else None


def _significant_bits(data: bytes) -> int | None:
    """Significant bits by the sBIT chunk of a PNG, which precedes the pixels; None without one."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    place = 8
    while place + 12 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"sBIT" and 0 < size <= 4:
            return max(data[place + 8 : place + 8 + min(size, 3)], default=None)
        if kind == b"IDAT":
            return None
        place += 12 + size
    return None
