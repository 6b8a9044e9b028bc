"""Whether files are unchanged since the last scan, and how that is known."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data import scan
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.image_statistics import image_statistics
from bcd.data.workspace import file_stamp
from bcd.errors import BcdError
from tests.helpers.noise import noise, write_classes, write_image

LONG_AGO = 1_500_000_000  # seconds, as archives set them


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of equal size and time in both classes, as from an archive."""
    for tint, name in enumerate(("a", "b")):
        for number in range(3):
            write_image(tmp_path / "root" / name / f"{number}.bmp", noise(number, tint))
    for file in (tmp_path / "root").rglob("*.bmp"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    return tmp_path / "root"


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are too large to be hashed in every run, and changes are old enough to be trusted."""
    monkeypatch.setattr(scan, "ALWAYS_HASHED", 0)
    monkeypatch.setattr(scan, "_SETTLED", -time.time_ns())


def load(root: Path) -> Catalog:
    return load_catalog(with_defaults(DataConfig, root=str(root)))


def swap(root: Path) -> None:
    """Moves an image of each class to the other's name; sizes and times of modification stay."""
    one, two, free = root / "a" / "0.bmp", root / "b" / "0.bmp", root.parent / "free"
    before = [(f.stat().st_size, f.stat().st_mtime_ns) for f in (one, two)]
    one.rename(free)
    two.rename(one)
    free.rename(two)
    assert [(f.stat().st_size, f.stat().st_mtime_ns) for f in (one, two)] == before


def rewrite(root: Path) -> None:
    """Writes into a file in place, and sets its time back as unpacking does."""
    file = root / "a" / "0.bmp"
    inode = file.stat().st_ino
    file.write_bytes(b"BM" + file.read_bytes()[2:-1] + b"\x07")
    os.utime(file, (LONG_AGO, LONG_AGO))
    assert (file.stat().st_ino, file.stat().st_mtime) == (inode, LONG_AGO)


@pytest.mark.parametrize("change", [swap, rewrite])
def test_files_replaced_by_others_of_equal_size_and_time_are_noticed(
    change: object, root: Path
) -> None:
    before = load(root)
    assert callable(change)
    change(root)
    after = load(root)
    assert after.fingerprint() != before.fingerprint()
    assert after.images[0].sha256 != before.images[0].sha256
    assert after.checked == "content of all 6 images hashed in this run"


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("change", [swap, rewrite])
def test_they_are_noticed_without_reading_all(change: object, root: Path) -> None:
    before = load(root)
    assert before.checked == "content of all 6 images hashed in this run"
    again = load(root)
    assert again == before
    assert again.checked.startswith("6 of 6 images recognized by size, inode and times")
    assert callable(change)
    change(root)
    after = load(root)
    assert after.fingerprint() != before.fingerprint()
    known = 4 if change is swap else 5
    assert after.checked.startswith(f"{known} of 6 images recognized")
    assert f"content of the other {6 - known} hashed" in after.checked


def test_a_change_just_before_the_scan_is_not_trusted_later(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "ALWAYS_HASHED", 0)
    for _ in range(2):  # the files were made a moment ago
        assert load(root).checked == "content of all 6 images hashed in this run"


@pytest.mark.usefixtures("trusting")
def test_changing_inodes_only_cause_files_to_be_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(root)
    stamp = file_stamp
    monkeypatch.setattr(scan, "file_stamp", lambda p: (*stamp(p)[:3], hash((p, 1)), stamp(p)[4]))
    after = load(root)
    assert after == before
    assert after.checked == "content of all 6 images hashed in this run"


def test_statistics_of_a_replaced_file_are_not_cached(root: Path) -> None:
    catalog = load(root)
    swap(root)
    with pytest.raises(BcdError, match=r"a/0\.bmp has changed since the catalog was made"):
        image_statistics(catalog)
    swap(root)
    assert len(image_statistics(catalog).grey) == len(catalog.images)


def test_unchanged_files_are_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(write_classes(root, ("c",)))
    monkeypatch.setattr(scan, "decode", None)
    assert load(root) == first
