"""Names of pictures in files of several, and names of files without a suffix."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bcd.data.files import is_image, read_bytes, read_encoded
from bcd.data.frames import has_no_suffix, join_frame, picture_sha256, split_frame

DICOM = bytes(128) + b"DICM" + bytes(20)


@pytest.mark.parametrize("name", ["IM000000", "a b", "1.2.840.10008.5.1", "scan-7", ".hidden"])
def test_names_without_a_suffix_and_uids_are_looked_into(name: str, tmp_path: Path) -> None:
    assert has_no_suffix(name)
    for content, expected in ((DICOM, True), (bytes(132), False), (b"", False)):
        (tmp_path / name).write_bytes(content)
        assert is_image(tmp_path / name) is expected
    assert not is_image(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    assert not is_image(tmp_path / "folder")


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "notes.txt", "IM.000", "1.2.840.dat"])
def test_other_files_are_not_images_whatever_they_hold(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DICOM)
    assert not has_no_suffix(name)
    assert not is_image(tmp_path / name)


def test_files_with_a_suffix_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def noted(path: Path, most: int) -> tuple[bytes, int]:
        opened.append(path)
        return DICOM[:most], len(DICOM)

    monkeypatch.setattr("bcd.data.files.read_start", noted)
    listed = [name for name in ("a.png", "a.dcm", "a.txt", "IM1", "DICOMDIR") if is_image(name)]
    assert listed == ["a.png", "a.dcm", "IM1"]
    assert opened == [Path("IM1")]


def test_a_picture_is_named_after_its_file(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.DICOM", "IM1", "c#2.dcm", "d.png"):
        file = tmp_path / name
        file.write_bytes(DICOM)
        assert split_frame(file) == (file, None)
        picture = join_frame(file, 12)
        assert picture.name == f"{name}#12"
        assert split_frame(picture) == ((picture, None) if name == "d.png" else (file, 12))
    for name in ("a.dcm#", "a.dcm#0", "a.dcm#-1", "a.dcm#x", "gone.dcm#2", "#2"):
        assert split_frame(tmp_path / name) == (tmp_path / name, None)


def test_a_file_whose_name_looks_like_that_of_a_picture_is_itself(tmp_path: Path) -> None:
    (tmp_path / "IM1").write_bytes(DICOM)
    own = tmp_path / "IM1#2"
    own.write_bytes(DICOM + b"another")
    assert split_frame(own) == (own, None)
    assert read_encoded(own).data == DICOM + b"another"
    assert split_frame(tmp_path / "IM1#3") == (tmp_path / "IM1", 3)


def test_pictures_are_identified_by_file_and_number(tmp_path: Path) -> None:
    (tmp_path / "IM1").write_bytes(DICOM)
    whole = hashlib.sha256(read_bytes(tmp_path / "IM1")).hexdigest()
    found = [read_encoded(tmp_path / name).sha256 for name in ("IM1", "IM1#1", "IM1#2")]
    assert found[0] == whole and len(set(found)) == 3
    assert found[2] == hashlib.sha256(f"{whole}#2".encode()).hexdigest()
    assert picture_sha256("", 2) == ""  # of a file that could not be read
