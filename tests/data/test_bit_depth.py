"""Images of 10, 12 and 14 bits in files of 16 and 32."""

from __future__ import annotations

import io
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcd.data.files import ImageError
from bcd.data.reading import decode, decode_image
from tests.helpers import fuzzing


def ramp(bits: int, channels: int = 1) -> NDArray[np.uint16]:
    """All values of so many bits, in another order in each channel."""
    values = np.linspace(0, (1 << bits) - 1, 48 * 64).round().astype(np.uint16)
    planes = [np.roll(values, 700 * i).reshape(48, 64) for i in range(channels)]
    return planes[0] if channels == 1 else np.stack(planes, -1)


def encoded(values: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def deep_colour(values: NDArray[np.uint16], suffix: str) -> bytes:
    order = [2, 1, 0, 3][: values.shape[2]]
    done, data = cv2.imencode(suffix, values[..., order])
    assert done
    return bytes(data)


def with_significant_bits(values: NDArray[Any], bits: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    height, width = values.shape[:2]
    colour = 2 if values.ndim == 3 else 0
    said = fuzzing.chunk(b"sBIT", bytes([bits] * (3 if colour else 1)))
    return fuzzing.png(width, height, 16, colour, zlib.compress(rows), said)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_grey_of_any_depth_fills_the_range(bits: int, kind: str, dtype: Any) -> None:
    if kind == "PNG" and dtype is np.int32:
        pytest.skip("PNG has 16 bits at most")
    values = ramp(bits)
    data = encoded(values.astype(dtype), kind)
    pixels = decode_image(data)
    np.testing.assert_array_equal(pixels, np.repeat((values >> bits - 8)[..., None], 3, 2))
    assert pixels.max() == 255
    assert decode(data, 1).size == (64, 48)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_any_depth_fill_the_range(bits: int, suffix: str, channels: int) -> None:
    values = ramp(bits, channels)
    if channels == 4:
        values[..., 3] = 0xFFFF
    pixels = decode_image(deep_colour(values, suffix))
    np.testing.assert_array_equal(pixels, values[..., :3] >> bits - 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_a_png_says_of_its_bits_counts(channels: int) -> None:
    values = ramp(12, channels)
    expected = values >> 4
    moved = values << 4  # as the standard has it
    for stored, said in ((values, 12), (moved, 12)):
        pixels = decode_image(with_significant_bits(stored, said))
        np.testing.assert_array_equal(pixels[..., 0], expected.reshape(48, 64, -1)[..., 0])
    dark = decode_image(with_significant_bits(values, 16))  # an image that is dark indeed
    np.testing.assert_array_equal(dark[..., 0], (values >> 8).reshape(48, 64, -1)[..., 0])


def test_what_a_tiff_says_of_its_largest_value_counts() -> None:
    values = ramp(10)
    tags = {281: 4095}
    pixels = decode_image(encoded(values, "TIFF", tiffinfo=tags))
    np.testing.assert_array_equal(pixels[..., 0], values >> 4)


def test_where_white_is_zero_the_image_is_turned_round() -> None:
    values = ramp(12)
    pixels = decode_image(encoded(values, "TIFF", tiffinfo={262: 0}))
    with Image.open(io.BytesIO(encoded(values, "TIFF", tiffinfo={262: 0}))) as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
    np.testing.assert_array_equal(pixels[..., 0], 255 - (values >> 4))


@pytest.mark.parametrize("value", [-1, 1 << 16])
def test_integers_beyond_16_bits_are_rejected(value: int) -> None:
    values = np.full((48, 64), value, np.int32)
    for read in (decode_image, lambda data: decode(data, 1)):
        with pytest.raises(ImageError, match="beyond 16 bits"):
            read(encoded(values, "TIFF"))
