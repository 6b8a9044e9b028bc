"""Pictures of DICOM files of several as images of a data root."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data import scan
from bcd.data.catalog import Catalog
from bcd.data.dicom.claims import MOST_FRAMES
from bcd.data.files import read_bytes
from bcd.data.listing import list_images
from bcd.data.load import expand_inputs, load_catalog
from bcd.data.quality.image_statistics import image_statistics
from bcd.data.quality.overlaps import COPIES
from bcd.data.quality.profile import profile_images
from bcd.data.reading import fit, read_image, read_verified
from bcd.data.splits.files import file_units
from bcd.data.workspace import pixels_part
from bcd.errors import BcdError
from tests.helpers.dicom import make_dicom
from tests.helpers.noise import noise, write_image

FRAMES = np.stack([noise(i, i, size=40) for i in range(4)])
SEVERAL = make_dicom(FRAMES, "rle").data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class a: a file of four pictures, one without a suffix, and a PNG; class b: two PNGs."""
    root = tmp_path / "root"
    for place, name in enumerate(("a/x.png", "b/1.png", "b/2.png")):
        write_image(root / name, noise(50 + place, size=40))
    (root / "a" / "m.dcm").write_bytes(SEVERAL)
    (root / "a" / "IM1").write_bytes(make_dicom(FRAMES[:2], "jpeg-ls").data)
    return root


def load(root: Path, keep: tuple[int, ...] = (), **settings: Any) -> Catalog:
    return load_catalog(
        with_defaults(DataConfig, root=str(root), min_size=8, **settings), keep=keep
    )


def listed(file: Path, *rows: tuple[str, str, str]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "class", "group"), *rows])
    return file


def test_each_picture_is_an_image_in_the_group_of_its_file(root: Path) -> None:
    found = load(root)
    expected = [f"a/IM1#{k}" for k in (1, 2)] + [f"a/m.dcm#{k}" for k in (1, 2, 3, 4)]
    assert [image.path for image in found.images] == [*expected, "a/x.png", "b/1.png", "b/2.png"]
    for image in found.images:
        alone = image.path.endswith(".png")
        assert image.file == image.path.partition("#")[0]
        assert image.group == ("" if alone else image.file) and image.given_group == ""
        if image.frame is not None:
            pixels = read_image(found.root / image.path)
            np.testing.assert_array_equal(pixels, FRAMES[image.frame - 1])
    assert len({image.sha256 for image in found.images}) == len(found.images)
    again = load(root, group_pattern=r"m|IM1|.\.png")  # is applied to the path of the file
    assert [p.group for p in again.images] == ["IM1"] * 2 + ["m"] * 4 + ["x.png", "1.png", "2.png"]


def test_a_file_is_read_once_for_all_of_its_pictures(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()

    def counted(path: Path) -> bytes:
        reads[path.name] += 1
        return read_bytes(path)

    monkeypatch.setattr(scan, "read_bytes", counted)
    cold = load(root, keep=(16,))
    assert reads["m.dcm"] == reads["IM1"] == 1
    assert cold.kept is not None
    for image in cold.images:
        own = cold.root / image.path
        kept = cold.kept.get(own, image.sha256, pixels_part(16))
        assert kept is not None
        np.testing.assert_array_equal(kept, fit(read_image(own), 16))
    assert load(root, keep=(16,)).images == cold.images
    assert reads["m.dcm"] == 2  # hashed


def test_what_is_known_of_a_picture_is_the_same_however_it_is_read(root: Path) -> None:
    catalog = load(root, keep=(16,))
    kept = image_statistics(catalog)
    (catalog.root / "elsewhere").mkdir()
    for file in ("a/m.dcm", "a/IM1", "a/x.png", "b/1.png", "b/2.png"):
        (catalog.root / "elsewhere" / file).parent.mkdir(exist_ok=True)
        (catalog.root / file).rename(catalog.root / "elsewhere" / file)
    moved = replace(catalog, root=catalog.root / "elsewhere", kept=None)
    read = image_statistics(moved)
    for name, value in vars(kept).items():
        np.testing.assert_array_equal(vars(read)[name], value, name)
    assert kept.encoding[2, 0] == pytest.approx(len(SEVERAL) / 4, abs=1)  # its share of the file
    pairs = {(pair.first, pair.second, pair.kind) for pair in profile_images(moved).overlaps}
    assert {(0, 2, COPIES[1]), (1, 3, COPIES[1])} <= pairs


def test_a_changed_file_is_noticed_by_each_of_its_pictures(root: Path) -> None:
    image = load(root).images[3]
    own = root / image.path
    assert read_verified(own, image.sha256).length == len(SEVERAL) // 4
    (root / image.file).write_bytes(make_dicom(FRAMES[::-1], "rle").data)
    with pytest.raises(BcdError, match=r"m\.dcm#2 has changed"):
        read_verified(own, image.sha256)
    assert load(root).images[3].sha256 != image.sha256


def test_a_csv_names_a_file_or_some_of_its_pictures(root: Path) -> None:
    rows = [
        ("a/m.dcm", "x", ""),
        ("a/IM1#2", "x", "p1"),
        ("a/IM1#1", "y", ""),
        ("b/1.png", "y", ""),
    ]
    found = load(listed(root / "list.csv", *rows))
    assert [(p.path, found.classes[p.label], p.group) for p in found.images] == [
        ("a/IM1#1", "y", "p1"),
        ("a/IM1#2", "x", "p1"),
        *((f"a/m.dcm#{k}", "x", "a/m.dcm") for k in (1, 2, 3, 4)),
        ("b/1.png", "y", ""),
    ]
    whole = load(root)
    sha256s = {image.path: image.sha256 for image in whole.images}
    assert all(sha256s[image.path] == image.sha256 for image in found.images)


def test_pictures_are_of_one_file_however_its_path_is_written(root: Path) -> None:
    (root / "c").symlink_to(root / "a")
    paths = ["../root/a/m.dcm#2", "a/m.dcm#1", "c/m.dcm#3", "c/IM1"]
    rows = [(path, "xy"[number % 2], "") for number, path in enumerate(paths)]
    found = load(listed(root / "list.csv", *rows), group_pattern=r"(?:a|c)/(?=IM1)")
    files = {image.path: image.file for image in found.images}
    assert files == {
        **dict.fromkeys(paths[:3], "../root/a/m.dcm"),
        **dict.fromkeys(("c/IM1#1", "c/IM1#2"), "c/IM1"),
    }
    units = file_units(found)
    assert units is not None
    assert len(set(units)) == 2 and len({p.group for p in found.images}) == 2
    assert not any(p.given_group for p in found.images if p.frame and "m.dcm" in p.path)
    two = [(path, "x", group) for path, group in zip(paths[1:3], "pq", strict=True)]
    with pytest.raises(BcdError, match=r"m\.dcm are in the groups 'p' and 'q'"):
        load(listed(root / "list.csv", *two))
    one = load(listed(root / "list.csv", *two[:1], ("c/m.dcm#3", "y", "")))
    assert [p.group for p in one.images] == ["p", "p"]


def test_a_csv_of_windows_may_name_pictures(root: Path) -> None:
    rows = [("a\\m.dcm#2", "x", ""), ("a\\IM1", "x", ""), ("b\\1.png", "y", "")]
    found = load(listed(root / "list.csv", *rows))
    assert [p.path for p in found.images] == ["a/IM1#1", "a/IM1#2", "a/m.dcm#2", "b/1.png"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("a/m.dcm", "x", ""), ("a/m.dcm#2", "y", "")], "m.dcm#2 is listed twice"),
        ([("a/m.dcm#1", "x", "p"), ("a/m.dcm#2", "y", "q")], "m.dcm are in the groups 'p' and 'q'"),
    ],
)
def test_a_csv_that_contradicts_itself_is_refused(
    rows: list[tuple[str, str, str]], reason: str, root: Path
) -> None:
    with pytest.raises(BcdError, match=reason):
        load(listed(root / "list.csv", *rows))


def test_pictures_that_are_not_there_are_rejected_alone(root: Path) -> None:
    (root / "b" / "one.dcm").write_bytes(make_dicom(FRAMES[0]).data)
    rows = [(f"a/m.dcm#{number}", "x", "") for number in (4, 5)]
    rows += [("b/one.dcm#1", "y", ""), ("b/1.png#1", "y", "")]
    found = load(listed(root / "list.csv", *rows))
    assert [image.path for image in found.images] == ["a/m.dcm#4", "b/one.dcm"]
    assert [one.path for one in found.rejected] == ["a/m.dcm#5", "b/1.png#1"]
    assert "has no picture 5" in found.rejected[0].reason


def test_names_and_numbers_that_cannot_be_are_rejected(root: Path) -> None:
    claim = make_dicom(FRAMES, "deflated", change=lambda d: setattr(d, "NumberOfFrames", 10_001))
    (root / "b" / "many.dcm").write_bytes(claim.data)
    (root / "a" / "m.dcm#3").write_bytes(b"notes")
    (root / "a" / "DICOMDIR").write_bytes(SEVERAL)
    found = load(root)
    reasons = {one.path: one.reason for one in found.rejected}
    assert f"at most {MOST_FRAMES}" in reasons.pop("b/many.dcm")
    assert "the file m.dcm#3" in reasons.pop("a/m.dcm")
    assert {*reasons} == {"a/m.dcm#3", "a/DICOMDIR"}
    assert {image.file for image in found.images if image.frame} == {"a/IM1"}


def test_class_folders_may_hold_only_files_without_a_suffix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "IM1").write_bytes(SEVERAL)
    (tmp_path / "root" / "IM2").write_bytes(SEVERAL)
    base, entries = list_images(tmp_path / "root", "original")
    assert [(e.path.relative_to(base).as_posix(), e.reason) for e in entries] == [
        ("IM2", "is beside the class folders"),
        *((f"{name}/IM1#{number}", "") for name in ("a", "b") for number in (1, 2, 3, 4)),
    ]
    paths = expand_inputs([str(tmp_path / "root" / "a"), str(tmp_path / "root" / "b" / "IM1#2")])
    assert [path.name for path in paths] == [*(f"IM1#{k}" for k in (1, 2, 3, 4)), "IM1#2"]
