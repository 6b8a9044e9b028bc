"""The scan reads and decodes each file once; later steps use what it kept, bit for bit the same."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, DataConfig
from bcd.data import files, parallel, reading, scan, workspace
from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.files import read_bytes
from bcd.data.load import load_catalog
from bcd.data.opening import opened
from bcd.data.quality import image_statistics, keypoints
from bcd.data.quality.keypoints import find_keypoints
from bcd.data.quality.profile import profile_images
from bcd.data.views import Augmenter, ImageViews
from bcd.data.workspace import Workspace, file_stamp, pixels_part
from bcd.errors import BcdError
from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config
from tests.helpers.noise import noise, write_classes, write_image

SIDE = 48

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pread")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of several sizes and formats, a rotated one, and a copy."""
    folder = write_classes(tmp_path / "in", ("a", "b"), count=3, size=60)
    write_classes(folder, ("b",), count=2, suffix=".bmp", size=SIDE)
    write_image(folder / "a" / "large.jpg", noise(5, size=300))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(6, size=90)[:50]).save(folder / "a" / "turned.jpg", exif=exif)
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "000.png").read_bytes())
    return folder


def load(root: Path, keep: Sequence[int] = (SIDE,)) -> Catalog:
    return load_catalog(with_defaults(DataConfig, root=str(root)), keep=keep)


def views(catalog: Catalog, mask: bool = False) -> ImageViews:
    augmenter = Augmenter(with_defaults(AugmentConfig), 0)
    return ImageViews(catalog.root, catalog.images, SIDE, augmenter, mask, catalog.kept)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], Counter[str]]:
    """How often the bytes of each content are read, and decoded, in this process."""
    reads: Counter[str] = Counter()
    decodes: Counter[str] = Counter()

    def counted_read(path: Path) -> bytes:
        data = read_bytes(path)
        reads[hashlib.sha256(data).hexdigest()] += 1
        return data

    @contextlib.contextmanager
    def counted_open(data: bytes, *others: Any) -> Iterator[Any]:
        decodes[hashlib.sha256(data).hexdigest()] += 1
        with opened(data, *others) as image:
            yield image

    for module in (scan, files):
        monkeypatch.setattr(module, "read_bytes", counted_read)
    monkeypatch.setattr(reading, "opened", counted_open)
    return reads, decodes


def use(catalog: Catalog) -> list[NDArray[np.uint8]]:
    """What a run needs of its images; the pixels are verified as for the feature bank."""
    profile = profile_images(catalog)
    assert len(profile.statistics.grey) == len(catalog.images)
    return [views(catalog).resized(i, verify=True)[SIDE] for i in range(len(catalog.images))]


def test_each_file_is_read_and_decoded_once(
    root: Path, work: tuple[Counter[str], Counter[str]]
) -> None:
    catalog = load(root)
    use(catalog)
    files = Counter(image.sha256 for image in catalog.images)
    assert work == (files, files)


def test_a_data_module_reads_and_decodes_each_file_once(
    tmp_path: Path, work: tuple[Counter[str], Counter[str]]
) -> None:
    folder = write_classes(tmp_path / "in", ("a", "b"), count=6, size=60)
    module = SmearDataModule({"root": str(folder)}, size=SIDE)
    module.prepare_data()  # as the Trainer does, before `setup`
    module.setup("fit")
    reads, decodes = work
    files = 12
    for i in range(files):
        module.images.resized(i)
    assert sum(reads.values()) == sum(decodes.values()) == files


@pytest.mark.parametrize("how", ["threads", "processes", "large", "without"])
def test_what_is_kept_is_what_reading_again_gives(
    how: str, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "other"))
    plain = load(root, keep=())
    assert plain.kept is None
    expected = profile_images(plain)
    files = {image.sha256: root / image.path for image in plain.images}
    points, pixels = find_keypoints(files, True), use(plain)
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    if how in ("processes", "large"):
        monkeypatch.setattr(parallel, "_MANY", 2)
    if how == "large":  # two of them are not small: they are read in threads afterwards
        monkeypatch.setattr(parallel, "_SMALL", 60 * 60)
    if how == "without":
        monkeypatch.setattr(workspace, "MOST_BYTES", 0)
    catalog = load(root)
    assert catalog == plain
    assert catalog.kept is not None
    for image in catalog.images:
        for part in catalog.kept.slots.parts:
            found = catalog.kept.get(root / image.path, image.sha256, part)
            assert (found is None) == (how == "without"), part
    profile = profile_images(catalog)
    assert profile.overlaps == expected.overlaps
    for name, column in vars(expected.statistics).items():
        np.testing.assert_array_equal(getattr(profile.statistics, name), column)
    kept = find_keypoints(files, True, catalog.kept)
    for name, column in vars(points).items():
        np.testing.assert_array_equal(getattr(kept, name), column)
    for one, other in zip(use(catalog), pixels, strict=True):
        np.testing.assert_array_equal(one, other)
    masked, plainly = views(catalog, mask=True), views(plain, mask=True)
    np.testing.assert_array_equal(masked.resized(0)[SIDE], plainly.resized(0)[SIDE])


def test_a_file_that_changes_after_the_scan_is_noticed(root: Path) -> None:
    catalog = load(root)
    changed, before = root / "a" / "001.png", views(catalog).resized(1)[SIDE]
    times = changed.stat()
    write_image(changed, noise(99, size=60))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not np.array_equal(views(catalog).resized(1)[SIDE], before)
    with pytest.raises(BcdError, match=r"a/001\.png has changed since the catalog was made"):
        views(catalog).resized(1, verify=True)
    with pytest.raises(BcdError, match=r"a/001\.png has changed since the catalog was made"):
        profile_images(catalog)
    changed.unlink()
    with pytest.raises(BcdError, match=r"a/001\.png cannot be read"):
        views(catalog).resized(1, verify=True)


def test_a_touched_file_is_read_again(root: Path, work: tuple[Counter[str], Counter[str]]) -> None:
    catalog = load(root)
    before = views(catalog).resized(0)[SIDE]
    os.utime(root / "a" / "000.png", (1_500_000_000, 1_500_000_000))
    np.testing.assert_array_equal(views(catalog).resized(0, verify=True)[SIDE], before)
    assert work[0][catalog.images[0].sha256] == 3  # it and its copy once each, and it again


def test_pixels_beyond_the_limit_are_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = use(load(root, keep=()))
    count = len(pixels)
    described = count * (image_statistics.ROW.itemsize + keypoints.ROW.itemsize)
    monkeypatch.setenv("BCD_CACHE", str(root.parent / "other"))
    monkeypatch.setattr(workspace, "MOST_BYTES", described + 3 * SIDE * SIDE * 3)
    catalog = load(root)
    kept = catalog.kept
    assert kept is not None
    named = [(root / image.path, image.sha256) for image in catalog.images]
    assert sum(kept.get(*file, pixels_part(SIDE)) is not None for file in named) in (3, 4)
    assert all(kept.get(*file, image_statistics.PART) is not None for file in named)
    assert os.fstat(kept.slots.descriptor).st_size <= workspace.MOST_BYTES
    for one, other in zip(use(catalog), pixels, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_file_has_no_name_and_is_closed_with_its_workspace(tmp_path: Path) -> None:
    kept = Workspace.create(1, {"number": np.dtype(np.int64)})
    assert kept is not None
    assert [f for f in (tmp_path / "cache").iterdir() if f.is_file()] == []
    file = write_image(tmp_path / "image.png", noise(0))
    assert kept.slots.write(0, "number", np.asarray(7))
    kept.add(0, "hash", ["number"])
    assert kept.get(file, "hash", "number") is None  # the file's stamp is not known
    kept.stamp(file, file_stamp(file))
    assert kept.get(file, "hash", "number") == 7
    assert kept.get(file, "another", "number") is None
    assert kept.get(tmp_path / "missing.png", "hash", "number") is None
    descriptor = kept.slots.descriptor
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_training_run_decodes_each_file_once_and_the_next_run_none(
    tmp_path: Path, work: tuple[Counter[str], Counter[str]]
) -> None:
    reads, decodes = work

    def run(name: str) -> tuple[Counter[str], int]:
        """How many files have each content, and the number of images that the report shows."""
        reads.clear()
        decodes.clear()
        frozen = ("model.unfreeze=0", "model.batchnorm=frozen", "features.engine=torch")
        root = f"data.root={tmp_path / 'smears'}"
        result = train(train_config(tmp_path / name, *SMALL, *frozen, root))
        assert result is not None
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        shown = page.count("<img ")
        files = Counter(image.sha256 for image in result.datamodule.catalog.images)
        # Most images are in no figure.
        assert shown > 0
        assert sum(decodes[k] <= files[k] for k in files) > len(files) / 2
        return files, shown

    files, shown = run("cold")
    assert not files - reads and not files - decodes  # each file at least once
    assert (reads - files).total() <= shown
    assert (decodes - files).total() <= shown
    files, shown = run("warm")
    assert not files - reads  # for its hash
    assert (reads - files).total() <= shown
    assert decodes.total() <= shown
