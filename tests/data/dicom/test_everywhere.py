"""DICOM files as images of a data root, and through the reading processes."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from bcd.config.compose import with_defaults
from bcd.config.input_views import InputView
from bcd.config.schema import DataConfig
from bcd.data.dicom.header import Header
from bcd.data.dicom.reading import decode_frame, read_header
from bcd.data.items import Item, Wanted
from bcd.data.load import load_catalog
from bcd.data.reading import read_image
from bcd.data.sandbox import Readers
from bcd.data.shown import WHOLE, Picture
from tests.helpers.dicom import identified, make_dicom
from tests.helpers.noise import noise, write_image

FRAMES = np.stack([noise(i, i, size=48) for i in range(3)])
WANTED = Wanted((InputView("plain", 32),), False)


def test_a_data_root_has_dicom_files_of_one_and_of_several_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    values = []
    for number, name in enumerate(("Benign", "Pro-B")):
        folder = tmp_path / "root" / name
        write_image(folder / "1.png", FRAMES[number])
        for other, syntax in ((2, "jpeg-ls"), (3, "deflated")):
            data, some = identified(make_dicom(FRAMES[number], syntax).data)
            (folder / f"{other}.dcm").write_bytes(data)
            values += some
        data, some = identified(make_dicom(FRAMES, "rle").data)
        (folder / "several.dcm").write_bytes(data)
        values += some
    for _ in range(2):  # also as cached
        root = str(tmp_path / "root")
        catalog = load_catalog(with_defaults(DataConfig, root=root, min_size=8), keep=(16,))
        several = tuple(f"several.dcm#{number}" for number in (1, 2, 3))
        assert [(image.path, image.width, image.height) for image in catalog.images] == [
            (f"{name}/{file}", 48, 48)
            for name in ("Benign", "Pro-B")
            for file in ("1.png", "2.dcm", "3.dcm", *several)
        ]
        assert not catalog.rejected
        for image in catalog.images:
            picture = FRAMES[image.label if image.frame is None else image.frame - 1]
            np.testing.assert_array_equal(read_image(catalog.root / image.path), picture)
    cached = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert cached
    contents = [file.read_bytes() + str(file).encode() for file in cached]
    assert not [value for value in set(values) for one in contents if value.encode() in one]


def test_reading_processes_give_frames_headers_and_reasons(tmp_path: Path) -> None:
    data, values = identified(make_dicom(FRAMES, "jpeg 2000").data)
    file = tmp_path / "a.dcm"
    file.write_bytes(data)
    readers = Readers(WANTED, 1)
    try:
        asked: list[Future[Any]] = [
            readers.submit(Item("", data=data, frame=2)),
            readers.submit(Item("", file, frame=2)),
            readers.submit(Item("", file, frame=3, picture=Picture(WHOLE))),
            readers.submit(Item("", file)),
            readers.header(Item("", data=data)),
            readers.header(Item("", file), ["PatientName", "PatientSex"]),
            readers.header(Item("", data=b"\x89PNG" + bytes(200))),
        ]
        one, same, whole, several, plain, kept, none = (answer.result(60) for answer in asked)
    finally:
        readers.close()
    expected = WANTED.pack(FRAMES[1])
    np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(same, expected)
    np.testing.assert_array_equal(whole, FRAMES[2])
    assert isinstance(several, str) and several.startswith("holds 3 pictures (several are read")
    assert none == "not a DICOM file (no prefix 'DICM')"
    assert isinstance(plain, Header) and isinstance(kept, Header)
    assert not [value for value in values if value in plain.to_line()]
    assert plain.kept == {} and [*kept.kept] == ["PatientName"]
    assert kept.kept["PatientName"] in values
    assert (plain.frames, plain.width, plain.height) == FRAMES.shape[:3]
    hashes = {hashlib.sha256(value.encode()).hexdigest() for value in values}
    assert {plain.sop_uid_sha256, plain.study_uid_sha256} < hashes
    assert plain.sop_uid_sha256 != plain.study_uid_sha256


def test_texts_that_are_kept_are_one_line_of_bounded_length() -> None:
    def change(dataset: object) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 192"  # type: ignore[attr-defined]
        dataset.PatientComments = "ü\r\n\x1b" + "x" * 3000  # type: ignore[attr-defined]
        dataset.OtherPatientNames = ["Ä^B", "C^D"]  # type: ignore[attr-defined]

    data = make_dicom(FRAMES[0], "implicit", change=change).data
    keep = ["PatientComments", "OtherPatientNames", "Rows"]
    kept = read_header(data, keep).kept
    assert kept["Rows"] == "48"
    assert kept["PatientComments"].startswith("ü ") and len(kept["PatientComments"]) == 1000
    assert kept["PatientComments"][:-1].isprintable()
    assert kept["PatientComments"][-1] == "\ufffd"  # it was cut
    assert kept["OtherPatientNames"] == "Ä^B; C^D"


@pytest.mark.parametrize(
    ("charset", "stored", "expected"),
    [
        ("ISO_IR 192", "Ä  1 ".encode(), "Ä  1"),
        ("ISO_IR 100", b"\xc4\xa01", "Ä\xa01"),
        ("ISO 2022 IR 6\\ISO 2022 IR 87", b"A \x1b$B;3ED\x1b(B", "A 山田"),
        ("ISO 2022 IR 6\\ISO 2022 IR 87", b"\xc4 \x1b$B;3ED\x1b(B", "\ufffd \ufffd\ufffd"),
        ("ISO_IR 192", b"\xc41", "\ufffd1"),
        ("ISO_IR 999", "Ä1".encode(), "\ufffd\ufffd1"),
        ("ISO_IR 6", "Ä1".encode(), "\ufffd\ufffd1"),
        ("", b"\xc41", "\ufffd1"),
        ("", b"A\n1", "\ufffd"),
        ("", b"A\x7f1", "\ufffd"),
        ("", b"A1\0", "A1"),
        # High bytes where an escape sequence has named a set of 7 bits, or no longer holds.
        ("ISO 2022 IR 6\\ISO 2022 IR 87", b"A\x1b$B;3ED\x1b(B\xc4", "A\ufffd\ufffd\ufffd"),
        ("ISO 2022 IR 144\\ISO 2022 IR 87", b"\xb0\x1b$B;3\x1b(B\xb0", "\ufffd\ufffd\ufffd"),
        ("ISO 2022 IR 6\\ISO 2022 IR 144", b"\x1b-L\xb0^\xb0", "\ufffd^\ufffd"),
        ("ISO 2022 IR 6\\ISO 2022 IR 144", b"\x1b-L\xb0^\x1b-L\xb0", "\u0410^\u0410"),
        ("", b"A1\\A2 ", "A1; A2"),
        ("", b"A1\\", "A1; "),  # two values, of which one is empty
    ],
)
@pytest.mark.filterwarnings("ignore:Unknown encoding")  # by pydicom, which writes the file
def test_what_is_not_certain_in_a_text_is_marked(
    charset: str, stored: bytes, expected: str
) -> None:
    place = "%id%".ljust(len(stored) + len(stored) % 2, "_")  # pydicom writes no wrong bytes

    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet, dataset.PatientID = charset.split("\\"), place

    data = make_dicom(FRAMES[0], change=change).data
    data = data.replace(place.encode(), stored.ljust(len(place)))
    assert read_header(data, ["PatientID"]).kept["PatientID"] == expected


@pytest.mark.parametrize("kind", ["US", "AT", "LT", "SH", "UT", "OB", "SQ", "UN"])
def test_a_value_of_another_type_than_the_attribute_has_is_not_certain(kind: str) -> None:
    """Numbers are no PatientID, and a sequence may name people that nobody has asked for."""

    def change(dataset: Dataset) -> None:
        dataset.PatientID = "ABCD"

    tag = b"\x10\x00\x20\x00"
    value = b"ABCD"
    if kind == "SQ":
        name = b"\x10\x00\x10\x00PN\x04\x00A^BC"
        value = b"\xfe\xff\x00\xe0" + len(name).to_bytes(4, "little") + name
    long = kind in ("UT", "OB", "SQ", "UN")
    length = len(value).to_bytes(4 if long else 2, "little")
    made = tag + kind.encode() + bytes(2 if long else 0) + length + value
    data = make_dicom(FRAMES[0], change=change).data
    stated = tag + b"LO\x04\x00ABCD"
    assert data.count(stated) == 1
    header = read_header(data.replace(stated, made), ["PatientID", "Rows"])
    assert header.kept == {"PatientID": "ABCD" if kind == "UN" else "\ufffd", "Rows": "48"}


@pytest.mark.parametrize("keyword", ["PatientID", "PregnancyStatus"])
@pytest.mark.parametrize(
    ("kind", "defined"), [("", True), ("", False), ("UN", True), ("own", True)]
)
def test_a_sequence_without_its_type_is_not_certain(keyword: str, kind: str, defined: bool) -> None:
    """Not even numbers are taken from it: they could be letters of a name."""

    def change(dataset: Dataset) -> None:
        dataset.PatientID, dataset.PregnancyStatus = "ABCD", 4

    place = {"PatientID": b"\x10\0\x20\0", "PregnancyStatus": b"\x10\0\xc0\x21"}[keyword]
    vr, old = {"PatientID": (b"LO", b"ABCD"), "PregnancyStatus": (b"US", b"\4\0")}[keyword]
    own = vr if kind == "own" else kind.encode()
    inner = b"\x10\0\x10\0" + (b"PN\6\0" if kind == "own" else b"\6\0\0\0") + b"Secret"
    length = len(inner) if defined else 0xFFFFFFFF
    value = b"\xfe\xff\0\xe0" + length.to_bytes(4, "little") + inner
    if not defined:
        value += b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    length = len(value) if defined else 0xFFFFFFFF
    made = place + own + bytes(2 if kind == "UN" else 0)
    made += length.to_bytes(2 if kind == "own" else 4, "little") + value
    data = make_dicom(FRAMES[0], "explicit" if kind else "implicit", change=change).data
    stated = place + (vr if kind else b"") + len(old).to_bytes(2 if kind else 4, "little") + old
    assert data.count(stated) == 1
    assert read_header(data.replace(stated, made), [keyword]).kept == {keyword: "\ufffd"}


def test_a_value_that_cannot_be_parsed_costs_no_picture() -> None:
    def change(dataset: Dataset) -> None:
        dataset.PregnancyStatus = 4

    data = make_dicom(FRAMES[0], change=change).data
    stated = b"\xc0\x21US\x02\x00\x04\x00"
    assert data.count(stated) == 1
    data = data.replace(stated, b"\xc0\x21US\x03\x00\x04\x00\x00")  # half a number
    assert read_header(data, ["PregnancyStatus"]).kept == {"PregnancyStatus": "\ufffd"}


def test_a_file_named_otherwise_is_told_by_its_content(tmp_path: Path) -> None:
    made = make_dicom(FRAMES[0])
    for name in ("a.png", "b.dcm"):
        (tmp_path / name).write_bytes(made.data)
        np.testing.assert_array_equal(read_image(tmp_path / name), made.shown[0])
    Image.fromarray(FRAMES[0]).save(tmp_path / "c.png")
    (tmp_path / "c.png").rename(tmp_path / "c.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "c.dcm"), FRAMES[0])
    np.testing.assert_array_equal(decode_frame(made.data), FRAMES[0])
