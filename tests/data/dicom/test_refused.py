"""DICOM files that are no picture, damaged or hostile are refused, without what is in them."""

from __future__ import annotations

import struct
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID

from bcd.config.input_views import InputView
from bcd.data.dicom.reading import decode_frame, read_header
from bcd.data.files import MAX_BYTES, ImageError
from bcd.data.items import Item, Wanted
from bcd.data.sandbox import Readers
from tests.helpers.dicom import NATIVE, SYNTAXES, identified, make_dicom
from tests.helpers.noise import noise

PIXELS = noise(1, size=24)
WHOLE_RANGE = {"WindowCenter": 128, "WindowWidth": 256}
CT, WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.77.1.6"


def setting(**attributes: Any) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
            if value is None:
                delattr(dataset, keyword)

    return change


def reason(data: bytes, frame: int = 1) -> str:
    with pytest.raises(ImageError) as caught:
        decode_frame(data, frame)
    return str(caught.value)


@pytest.mark.parametrize(
    ("colours", "attributes", "expected"),
    [
        ("RGB", {"SOPClassUID": CT}, "another kind (CT Image Storage)"),
        ("RGB", {"SOPClassUID": WHOLE_SLIDE}, "a whole slide: use bcd slide"),
        ("RGB", {"SOPClassUID": "1.2.3.4567"}, "another kind (unknown)"),
        ("RGB", {"PixelData": None}, "no pixels"),
        ("RGB", {"PhotometricInterpretation": "YBR_PARTIAL_422"}, "unsupported colours"),
        ("RGB", {"PhotometricInterpretation": "YBR_RCT"}, "unsupported colours"),
        ("RGB", {"SamplesPerPixel": 1}, "1 samples a pixel for RGB"),
        ("RGB", {"BitsAllocated": 32, "BitsStored": 32}, "32 bits stored in 32"),
        ("RGB", {"BitsStored": 9}, "9 bits stored in 8"),
        ("RGB", {"HighBit": 5}, "not stored in the lowest bits"),
        ("RGB", {"Rows": 0}, "too small (24x0, at least 1 required)"),
        ("RGB", {"Rows": 65535, "Columns": 65535}, "too large (65535x65535)"),
        ("RGB", {"Rows": 25}, "its pixels are cut off"),
        ("RGB", {"NumberOfFrames": -1}, "number of frames"),
        ("MONOCHROME2", {"PixelRepresentation": 1}, "measurements and no picture (signed)"),
        ("MONOCHROME2", {"RescaleSlope": 2, "RescaleIntercept": 0}, "(rescaled)"),
        ("MONOCHROME2", {"RescaleSlope": 1, "RescaleIntercept": -1024}, "(rescaled)"),
        ("MONOCHROME2", {"WindowCenter": 40, "WindowWidth": 80}, "a display window"),
        ("MONOCHROME2", {"ModalityLUTSequence": []}, "modality LUT"),
        ("MONOCHROME2", {"VOILUTSequence": [Dataset()]}, "shown through a table (VOI LUT)"),
        ("MONOCHROME2", WHOLE_RANGE | {"VOILUTFunction": "SIGMOID"}, "window that is not linear"),
        ("MONOCHROME2", {"PresentationLUTShape": "INVERSE"}, "to be shown inverted"),
        ("MONOCHROME1", {"PresentationLUTShape": "IDENTITY"}, "to be shown inverted"),
        ("PALETTE COLOR", {"RedPaletteColorLookupTableDescriptor": None}, "no palette"),
        ("PALETTE COLOR", {"GreenPaletteColorLookupTableData": b"ab"}, "palette is too short"),
    ],
)
def test_what_is_no_plain_picture_is_refused(
    colours: str, attributes: dict[str, Any], expected: str
) -> None:
    found = reason(make_dicom(PIXELS, "explicit", colours, change=setting(**attributes)).data)
    assert expected in found


def test_a_window_over_the_whole_range_changes_nothing() -> None:
    full = {"WindowCenter": ["128", "40"], "WindowWidth": ["256", "80"], "RescaleSlope": 1}
    for colours, shape in (("MONOCHROME2", "IDENTITY"), ("MONOCHROME1", "INVERSE")):
        change = setting(**full, VOILUTFunction="LINEAR_EXACT", PresentationLUTShape=shape)
        made = make_dicom(PIXELS, "explicit", colours, change=change)
        np.testing.assert_array_equal(decode_frame(made.data), made.shown[0])


def test_other_transfer_syntaxes_are_named() -> None:
    data, known = make_dicom(PIXELS, "jpeg").data, SYNTAXES["jpeg"].encode()
    retired = "1.2.840.10008.1.2.4.55"
    other = data.replace(known, retired.encode())
    assert reason(other) == f"unsupported transfer syntax of DICOM ({UID(retired).name})"
    other = data.replace(known, b"1.2.840.10008.1.2.4.99")
    assert reason(other) == "unsupported transfer syntax of DICOM (unknown)"


@pytest.mark.parametrize("syntax", ["jpeg", "jpeg-ls", "jpeg 2000", "jpeg lossless"])
def test_a_frame_that_is_not_what_the_header_says_is_not_decoded(
    syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codestream may claim any size; what it takes is bounded by what was checked."""
    from pydicom.pixels.decoders.base import DecodeRunner

    def refuse(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(DecodeRunner, "_decode_frame", refuse)
    colours = "MONOCHROME2" if syntax == "jpeg lossless" else "RGB"
    for attributes in ({"Rows": 23}, {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}):
        data = make_dicom(PIXELS, syntax, colours, change=setting(**attributes)).data
        assert "its header says" in reason(data)
    if syntax == "jpeg 2000":
        data = make_dicom(PIXELS, syntax, colours).data
        depth = data.index(b"\xff\x4f\xff\x51") + 42
        for sample in range(3):
            signed = bytearray(data)
            signed[depth + 3 * sample] |= 0x80
            assert "not encoded as it says" in reason(bytes(signed))


def test_a_deflated_file_is_not_inflated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dicom(np.stack([PIXELS] * 4), "deflated").data
    inflated = 4 * PIXELS.nbytes  # and for each picture
    monkeypatch.setattr("bcd.data.dicom.parsing._MOST_INFLATED", 5 * inflated)
    assert decode_frame(data, 4).shape == PIXELS.shape
    monkeypatch.setattr("bcd.data.dicom.parsing._MOST_INFLATED", 4 * inflated)
    assert reason(data) == "takes too long (deflated, with many pictures): split the file"


def test_palettes_that_are_segmented_are_those_that_are_not() -> None:
    def segmented(dataset: Dataset) -> None:
        for name in ("Red", "Green", "Blue"):
            # 0, 0x100 … 0x300 as they are, 124 steps to 0x7F00, the first segment again,
            # and steps to 0xFF00.
            words = [0, 4, 0, 0x100, 0x200, 0x300, 1, 124, 0x7F00, 2, 1, 0, 0, 1, 124, 0xFF00]
            delattr(dataset, f"{name}PaletteColorLookupTableData")
            data = struct.pack(f"<{len(words)}H", *words)
            setattr(dataset, f"Segmented{name}PaletteColorLookupTableData", data)

    def plain(dataset: Dataset) -> None:
        from pydicom.pixels.processing import _expand_segmented_lut

        words = (0, 4, 0, 0x100, 0x200, 0x300, 1, 124, 0x7F00, 2, 1, 0, 0, 1, 124, 0xFF00)
        table = _expand_segmented_lut(words, "<H")
        assert len(table) == 256
        for name in ("Red", "Green", "Blue"):
            data = struct.pack("<256H", *table)
            setattr(dataset, f"{name}PaletteColorLookupTableData", data)

    one, other = (
        decode_frame(make_dicom(PIXELS, "explicit", "PALETTE COLOR", change=change).data)
        for change in (segmented, plain)
    )
    np.testing.assert_array_equal(one, other)
    assert len(np.unique(one)) > 20


def test_a_palette_may_begin_later_and_have_8_bits() -> None:
    values = np.arange(24 * 24).reshape(24, 24, 1).repeat(3, 2).astype(np.uint16)

    def put(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for name, factor in (("Red", 1), ("Green", 2), ("Blue", 3)):
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [300, 100, 8])
            data = bytes(number * factor % 251 for number in range(300))
            setattr(dataset, f"{name}PaletteColorLookupTableData", data)

    found = decode_frame(make_dicom(values, "explicit", "MONOCHROME2", bits=12, change=put).data)
    index = np.clip(values[..., 0].astype(int) - 100, 0, 299)
    np.testing.assert_array_equal(found, np.stack([index * f % 251 for f in (1, 2, 3)], axis=2))


@pytest.mark.parametrize("syntax", [name for name in SYNTAXES if name not in NATIVE])
def test_an_encoded_picture_that_is_cut_off_is_refused(syntax: str) -> None:
    """Decoders of JPEG Lossless and JPEG-LS make up the rest."""
    two = np.stack([PIXELS, PIXELS])
    colours = "MONOCHROME2" if syntax == "jpeg lossless" else "RGB"
    whole = make_dicom(two, syntax, colours).data
    frames: list[bytes] = []

    def shortened(dataset: Dataset) -> None:
        frames.extend(generate_frames(dataset.PixelData, number_of_frames=2))
        dataset.PixelData = encapsulate(
            [frames[0], frames[0].rstrip(b"\0")[: -len(frames[0]) // 5]]
        )

    decode_frame(whole, 2)
    for length in (*range(len(whole) - 40, len(whole)), len(whole) * 2 // 3):
        assert reason(whole[:length], 1) == "damaged DICOM file (its pixels are cut off)"
    one_short = make_dicom(two, syntax, colours, change=shortened).data
    decode_frame(one_short, 1)
    expected = "cannot be decoded" if syntax == "rle" else "a picture is cut off"
    assert expected in reason(one_short, 2)


NAMED = {
    syntax: identified(make_dicom(np.stack([PIXELS, PIXELS]), syntax).data)
    for syntax in ("explicit", "implicit", "deflated", "rle", "jpeg", "jpeg-ls", "jpeg 2000")
}


@pytest.mark.parametrize("syntax", NAMED)
def test_damaged_files_are_refused_without_what_is_in_them(syntax: str) -> None:
    data, values = NAMED[syntax]
    rng = np.random.default_rng(len(syntax))
    reasons = set()
    for number in range(60):
        damaged = bytearray(data)
        if number % 3 == 0:
            del damaged[int(rng.integers(len(data))) :]
        else:
            for place in rng.integers(130, len(data) - 1, 1 + number % 7):
                damaged[place : place + 2] = rng.bytes(2)
        for work in (decode_frame, read_header):
            try:
                work(bytes(damaged))
            except ImageError as error:
                reasons.add(str(error))
    assert len(reasons) > 3
    assert not [one for one in reasons if any(value in one for value in values) or len(one) > 160]


def element(group: int, number: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH2sHL", group, number, vr, 0, length) + value


UNDEFINED = 0xFFFFFFFF
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)


def in_front(content: bytes) -> bytes:
    """A good file with bytes after its meta information."""
    data = make_dicom(PIXELS).data
    place = data.index(struct.pack("<HH", 8, 0x16))
    return data[:place] + content + data[place:]


HOSTILE = {
    "deep sequences": in_front((element(8, 0x1, b"SQ", UNDEFINED) + ITEM) * 100_000),
    "a sequence that does not end": in_front(element(8, 1, b"SQ", UNDEFINED) + ITEM * 20),
    "half a million items": in_front(
        element(8, 1, b"SQ", UNDEFINED)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 500_000
        + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    ),
    "a length beyond the end": in_front(element(8, 5, b"UT", 0xFFFFFF00)),
    "no types": in_front(b"\x08\0\x05\0\0\0\0\0"),
    "elements not in order": in_front(element(0x28, 0x10, b"UN", 2, b"\1\0")),
    "preamble only": b"\0" * 128 + b"DICM",
    "not DICOM": b"\0" * 200,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_take_no_time(name: str) -> None:
    start = time.process_time()
    for work in (decode_frame, read_header):
        with pytest.raises(ImageError):
            work(HOSTILE[name])
    assert time.process_time() - start < 20


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_reading_process_ends_with_a_bomb_and_not_with_pydicom() -> None:
    """pydicom and its decoders fit into the memory that a reading process may use."""
    bomb = make_dicom(PIXELS, "deflated").data
    meta = bomb[: 132 + 12 + struct.unpack_from("<L", bomb, 140)[0]]
    deflater = zlib.compressobj(9, wbits=-15)
    block = deflater.compress(bytes(1 << 24)) + deflater.flush(zlib.Z_FULL_FLUSH)
    zeros = block * (MAX_BYTES // (1 << 24) + 1) + deflater.flush()
    readers = Readers(Wanted((InputView("plain", 32),), False), 1)
    try:
        items = [meta + zeros, *(make_dicom(PIXELS, syntax).data for syntax in ("rle", "jpeg-ls"))]
        answers = [readers.submit(Item("", data=data)) for data in items]
        found = [answer.result(60) for answer in answers]
    finally:
        readers.close()
    assert found[0] == "too large (expands beyond 320 MB)"
    assert [one.shape for one in found[1:] if not isinstance(one, str)] == [(32, 32, 3)] * 2
