"""Pictures of DICOM files are those that the pixels have, in every transfer syntax and colours."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import encaps
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import DecodeRunner

from bcd.data.dicom.reading import decode_frame
from bcd.data.files import ImageError
from bcd.data.reading import decode, decode_image
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from tests.helpers.dicom import (
    LOSSLESS,
    NATIVE,
    SECONDARY_CAPTURE,
    Pixels,
    jpeg_of,
    make_dicom,
)

SMEARS = np.stack([draw_smear(name, slide=1, index=1, size=52) for name in CLASS_NAMES[:3]])
ODD = SMEARS[:, :, :51]  # rows of an odd number of bytes

GREY = ("MONOCHROME1", "MONOCHROME2")
CASES = [
    *((syntax, colours) for syntax in LOSSLESS for colours in (*GREY, "PALETTE COLOR")),
    *((syntax, "RGB") for syntax in LOSSLESS if syntax != "jpeg lossless"),
    *((syntax, "YBR_FULL") for syntax in (*NATIVE, "rle", "jpeg-ls", "jpeg 2000")),
    *((syntax, "YBR_FULL_422") for syntax in NATIVE),
    ("jpeg 2000", "YBR_RCT"),
    ("htj2k", "YBR_RCT"),
]


def as_png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(("syntax", "colours"), CASES)
def test_a_frame_is_the_png_of_its_pixels(syntax: str, colours: str) -> None:
    made = make_dicom(SMEARS if colours == "YBR_FULL_422" else ODD, syntax, colours)
    for number in (3, 1):
        expected = decode_image(as_png(made.shown[number - 1]))
        np.testing.assert_array_equal(decode_frame(made.data, number), expected)


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("colours", ["RGB", "YBR_FULL"])
def test_samples_may_be_stored_plane_by_plane(syntax: str, colours: str) -> None:
    made = make_dicom(ODD, syntax, colours, planar=1)
    np.testing.assert_array_equal(decode_frame(made.data, 2), made.shown[1])


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("syntax", ["explicit", "big endian", "rle", "jpeg-ls", "jpeg 2000"])
@pytest.mark.parametrize("colours", ["MONOCHROME1", "RGB"])
def test_values_are_brought_to_8_bits_by_bits_stored(bits: int, syntax: str, colours: str) -> None:
    # Half of the range is used: the largest value of an image does not matter.
    steps = np.linspace(0, (1 << bits) // 2, 20 * 31 * 3).round().reshape(20, 31, 3)
    values = steps.astype(np.uint16 if bits > 8 else np.uint8)
    found = decode_frame(make_dicom(values, syntax, colours, bits=bits).data)
    expected: NDArray[Any] = np.right_shift(values, bits - 8)
    expected = expected if colours == "RGB" else np.repeat(expected[..., 1:2], 3, 2)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_fewer_bits_fill_the_range(bits: int) -> None:
    most = (1 << bits) - 1
    values = (np.arange(20 * 30 * 3) % (most + 1)).reshape(20, 30, 3).astype(np.uint8)
    found = decode_frame(make_dicom(values, "explicit", "MONOCHROME2", bits=bits).data)
    np.testing.assert_array_equal(found[..., 0], values[..., 1].astype(int) * 255 // most)


def test_an_image_of_one_bit_a_pixel_is_black_and_white() -> None:
    seen = np.random.default_rng(3).integers(0, 2, (3, 9, 7, 1)).repeat(3, 3).astype(np.uint8)

    def pack(dataset: Dataset) -> None:
        packed = np.packbits(seen[..., 0].ravel(), bitorder="little").tobytes()
        dataset.BitsAllocated = 1
        dataset.PixelData = packed + b"\0" * (len(packed) % 2)

    data = make_dicom(seen, "explicit", "MONOCHROME2", bits=1, change=pack).data
    for number in (1, 2, 3):
        np.testing.assert_array_equal(decode_frame(data, number), seen[number - 1] * 255)


@pytest.mark.parametrize("stated", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_an_encapsulated_jpeg_is_the_jpeg_file_whatever_the_header_says(
    stated: str, options: dict[str, Any]
) -> None:
    """Its JFIF marker says that it has YCbCr; many writers leave RGB in the header."""
    jpeg = jpeg_of(SMEARS[0], **options)
    data = with_frame(jpeg, stated)
    np.testing.assert_array_equal(decode_frame(data), decode_image(jpeg))
    assert decode(data).jpeg_tables == decode(jpeg).jpeg_tables


def with_frame(frame: bytes, colours: str, syntax: str = "jpeg", **attributes: Any) -> bytes:
    def put(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([frame])
        dataset.PhotometricInterpretation = colours
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return make_dicom(SMEARS[0], syntax, "RGB", change=put).data


def without_jfif(jpeg: bytes) -> bytes:
    assert jpeg[2:4] == b"\xff\xe0"
    return jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]


def test_a_jpeg_without_a_marker_has_the_colours_of_the_header() -> None:
    ycc = Image.fromarray(SMEARS[0]).convert("YCbCr")
    kept = Image.fromarray(SMEARS[0], "YCbCr")  # RGB, stored without a transformation
    frames = {}
    for name, image in {"YBR_FULL_422": ycc, "RGB": kept}.items():
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=95, subsampling=0)
        frames[name] = without_jfif(stream.getvalue())
    for name, frame in frames.items():
        found = decode_frame(with_frame(frame, name)).astype(int)
        assert np.abs(found - SMEARS[0]).mean() < 4
        other = {"RGB": "YBR_FULL_422"}.get(name, "RGB")
        wrong = decode_frame(with_frame(frame, other)).astype(int)
        assert np.abs(wrong - SMEARS[0]).mean() > 20


def test_a_jpeg_that_says_rgb_by_an_adobe_marker_is_rgb() -> None:
    jpeg = jpeg_of(SMEARS[0], keep_rgb=True, quality=95)
    assert b"Adobe" in jpeg[:40]
    found = decode_frame(with_frame(jpeg, "YBR_FULL_422"))
    np.testing.assert_array_equal(found, decode_image(jpeg))


def test_a_grey_jpeg_of_12_bits_loses_the_lowest_ones() -> None:
    values = np.linspace(0, 4095, 40 * 48).reshape(40, 48).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(values, level=98, bitspersample=12)
    data = make_dicom(
        np.repeat(values[..., None], 3, 2), "jpeg extended", "MONOCHROME1", bits=12,
        change=lambda dataset: setattr(dataset, "PixelData", encapsulate([bytes(frame)])),
    ).data  # fmt: skip
    found = decode_frame(data)[..., 0].astype(int)
    assert np.abs(found - (255 - (values >> 4))).max() <= 1


@pytest.mark.parametrize("syntax", ["jpeg-ls near", "jpeg 2000 lossy", "htj2k lossy"])
def test_lossy_frames_are_nearly_their_pixels(syntax: str) -> None:
    made = make_dicom(SMEARS, syntax, "YBR_ICT" if syntax == "jpeg 2000 lossy" else "RGB")
    assert np.abs(decode_frame(made.data, 2).astype(int) - made.shown[1]).mean() < 3


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
@pytest.mark.parametrize("syntax", ["rle", "jpeg 2000"])
def test_a_frame_is_found_by_any_table_of_offsets(
    table: str, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(dataset: Dataset) -> None:
        frames = list(encaps.generate_frames(dataset.PixelData, number_of_frames=3))
        if table == "extended":
            data, offsets, lengths = encaps.encapsulate_extended(frames)
            dataset.PixelData = data
            dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
        else:
            dataset.PixelData = encaps.encapsulate(frames, has_bot=table == "basic")

    made = make_dicom(SMEARS, syntax, "RGB", change=put)
    decoded = []
    real: Callable[..., Any] = DecodeRunner._decode_frame

    def decode_one(*given: Any) -> Any:
        decoded.append(given)
        return real(*given)

    monkeypatch.setattr(DecodeRunner, "_decode_frame", decode_one)
    np.testing.assert_array_equal(decode_frame(made.data, 2), made.shown[1])
    assert len(decoded) == 1  # and none of the others


def test_a_file_of_several_pictures_is_none_of_them() -> None:
    data = make_dicom(SMEARS).data
    with pytest.raises(
        ImageError, match=r"^holds 3 pictures \(several are read only of files named \.dcm, .*\)$"
    ):
        decode_image(data)
    with pytest.raises(ImageError, match=r"^has no picture 4 \(holds 3\)$"):
        decode_frame(data, 4)
    with pytest.raises(ImageError, match=r"^has no picture 2$"):
        decode(as_png(SMEARS[0]), frame=2)
    one = make_dicom(SMEARS[0], kind=SECONDARY_CAPTURE).data
    np.testing.assert_array_equal(decode_image(one), SMEARS[0])


def test_a_large_picture_is_halved_unless_it_is_wanted_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bcd.data.reading.HALVED_ABOVE", 1000)
    monkeypatch.setattr("bcd.data.reading.MOST_SIDE", 20)
    for syntax in ("explicit", "jpeg"):
        made = make_dicom(SMEARS[0], syntax)
        halved, full = decode_image(made.data), decode_frame(made.data)
        assert (halved.shape, full.shape) == ((26, 26, 3), (52, 52, 3))
        averaged: NDArray[Any] = full.reshape(26, 2, 26, 2, 3).mean(axis=(1, 3))
        assert np.abs(averaged - halved).max() <= (1 if syntax == "explicit" else 40)
