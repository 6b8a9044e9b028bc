from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data import scan
from bcd.data.catalog import Catalog
from bcd.data.load import expand_inputs, load_catalog
from bcd.data.scan import FileFacts
from bcd.data.splits.split import make_split
from bcd.errors import BcdError, ConfigError
from bcd.storage import JsonCache, cache_dir
from tests.helpers.noise import noise, write_classes, write_image


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "root", ("a", "b"), count=4)


def load(root: Path, **settings: object) -> Catalog:
    return load_catalog(with_defaults(DataConfig, root=str(root), **settings))


def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that fills with the names of the files that are read and decoded from now on."""
    names: list[str] = []
    read = scan._read_all

    def count(files: Sequence[tuple[int, Path]], *others: Any) -> list[FileFacts]:
        names.extend(path.name for _, path in files)
        return read(files, *others)

    monkeypatch.setattr(scan, "_read_all", count)
    return names


def cache_file(cache: Path) -> Path:
    (file,) = (cache / "catalogs").iterdir()
    return file


def cached(cache: Path) -> Any:
    return scan.CACHE.read(cache_file(cache))[1]


def test_a_catalog_tells_path_hash_and_size_of_each_image(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"), count=1)
    write_image(tmp_path / "b" / "deep er" / "wide.png", noise(seed=5, size=60)[:50])
    catalog = load(tmp_path)
    assert [p.path for p in catalog.images] == ["a/000.png", "b/000.png", "b/deep er/wide.png"]
    assert [p.label for p in catalog.images] == catalog.labels == [0, 1, 1]
    assert (catalog.images[2].width, catalog.images[2].height) == (60, 50)
    for image in catalog.images:
        data = (catalog.root / image.path).read_bytes()
        assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert catalog.counts() == {"a": 1, "b": 2}


def test_the_fingerprint_follows_contents_and_classes_and_not_names(tmp_path: Path) -> None:
    before = load(write_classes(tmp_path, ("a", "b"))).fingerprint()
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "other.png")
    assert load(tmp_path).fingerprint() == before
    (tmp_path / "a" / "other.png").rename(tmp_path / "b" / "other.png")
    assert load(tmp_path).fingerprint() != before


def test_rejected_files_are_listed_with_reasons_and_excluded(root: Path) -> None:
    (root / "a" / "notes.txt").write_text("text")
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "b" / "half.png").write_bytes((root / "b" / "000.png").read_bytes()[:2000])
    write_image(root / "b" / "tiny.png", noise(seed=3, size=20))
    catalog = load(root, min_size=30)
    reasons = {r.path: r.reason for r in catalog.rejected}
    assert sorted(reasons) == ["a/empty.jpg", "a/notes.txt", "b/half.png", "b/tiny.png"]
    assert reasons["a/empty.jpg"] == "empty file"
    assert "'.txt'" in reasons["a/notes.txt"]
    assert "truncated" in reasons["b/half.png"]
    assert "too small (20x20, at least 30 required)" in reasons["b/tiny.png"]
    assert catalog.counts() == {"a": 4, "b": 4}

    file = root.parent / "split.csv"
    make_split(catalog, with_defaults(SplitConfig)).write(file, catalog)
    with file.open(newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert {path for path, row in rows.items() if row["subset"] == "excluded"} == set(reasons)
    assert {path: row["class"] for path, row in rows.items()} == {path: path[0] for path in rows}
    assert set(rows) == set(reasons) | {p.path for p in catalog.images}


def test_a_class_without_a_usable_image_is_an_error(root: Path) -> None:
    for file in (root / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(BcdError, match=r"class 'b' can be used \(first: empty file\)"):
        load(root)


def test_classes_of_a_trained_model_rule(root: Path) -> None:
    names = ("b", "c", "a")
    catalog = load_catalog(with_defaults(DataConfig, root=str(root), benign="c"), names)
    assert catalog.classes == names
    assert {p.path[0]: p.label for p in catalog.images} == {"b": 0, "a": 2}
    assert catalog.benign == 1
    with pytest.raises(BcdError, match="has the class 'a', but the model knows only b, c"):
        load_catalog(with_defaults(DataConfig, root=str(root)), names[:2])


def test_groups_come_from_the_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_classes(tmp_path / name, ["slide1", "slide2"], count=1)
    write_image(tmp_path / "a" / "lone.png", noise(seed=8))
    whole = [p.group for p in load(tmp_path, group_pattern=r"slide\d").images]
    assert whole == ["", "slide1", "slide2", "slide1", "slide2"]
    number = [p.group for p in load(tmp_path, group_pattern=r"slide(\d)").images]
    assert number == ["", "1", "2", "1", "2"]
    perhaps = [p.group for p in load(tmp_path, group_pattern=r"^a/(?:slide(\d))?").images]
    assert perhaps == ["", "1", "2", "", ""]
    with pytest.raises(ConfigError, match="not a regular expression"):
        load(tmp_path, group_pattern="(")


def test_unchanged_files_are_not_read_again(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a" / "notes.txt").write_text("text")
    (root / "a" / "empty.png").write_bytes(b"")
    first = load(root)
    read = files_read(monkeypatch)
    assert load(root) == first
    assert read == []
    assert load(root, min_size=39).images == first.images
    assert len(read) == 10  # another smallest size is another question


def test_changed_files_are_read_again_and_deleted_ones_vanish(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(root)
    read = files_read(monkeypatch)
    data = (root / "b" / "003.png").read_bytes()
    write_image(root / "a" / "000.png", noise(seed=77, size=44))
    os.utime(root / "a" / "001.png")  # as it was, but for its time
    (root / "b" / "003.png").unlink()
    (root / "b" / "new.png").write_bytes(data)
    second = load(root)
    assert sorted(read) == ["000.png", "new.png"]
    assert second.images[0].sha256 != first.images[0].sha256
    assert (second.images[0].width, second.images[0].height) == (44, 44)
    assert second.images[1] == first.images[1]
    assert [p.path for p in second.images[-2:]] == ["b/002.png", "b/new.png"]
    assert str(root / "b" / "003.png") not in cached(cache)


@pytest.mark.parametrize(
    "damage", ["cut", "not json", "list", "odd entries", "bytes", "other content"]
)
def test_a_damaged_cache_is_ignored(
    damage: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(root)
    file = cache_file(cache)
    good = file.read_bytes()
    table = cached(cache)
    odd = [7, [], None, {"stamp": []}, {"stamp": 1, "facts": {}}, {"facts": {"depth": 1}}, "text"]
    stamps = [{**entry, "facts": {"depth": 1}} for entry in table.values()]
    written = {
        "cut": good[: len(good) // 2],
        "not json": b"",
        "list": b"[]",
        "bytes": b"\xff\xfe\x00",
        "other content": good.replace(b'"width": 40', b'"width": 41'),
    }
    if damage == "odd entries":
        with monkeypatch.context() as patch:
            patch.setattr(JsonCache, "file", lambda *_: file)
            scan.CACHE.save("", str(root), dict(zip(table, odd + stamps, strict=False)))
    else:
        file.write_bytes(written[damage])
    assert file.read_bytes() != good
    assert load(root) == first
    assert file.read_bytes() == good


def test_a_file_that_could_not_be_read_for_a_while_is_read_again(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = load(root)
    cache_file(cache).unlink()
    real = os.open

    def refuse(path: Path, *others: int) -> int:
        if Path(path).name == "002.png":
            raise PermissionError(13, "Permission denied")
        return real(path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert {r.path: r.reason for r in load(root).rejected} == {
            f"{name}/002.png": "cannot be read (Permission denied)" for name in "ab"
        }
    assert load(root) == good


def test_a_cache_that_cannot_be_written_stops_nothing(root: Path, cache: Path) -> None:
    cache.write_text("a file where a folder is wanted")
    assert load(root).counts() == {"a": 4, "b": 4}
    assert cache_dir() == cache
    assert cache.is_file()


def test_threads_and_processes_at_once_do_no_harm(root: Path, cache: Path) -> None:
    program = (
        "import sys; from bcd.config.compose import with_defaults;"
        "from bcd.config.schema import DataConfig;"
        "from bcd.data.load import load_catalog;"
        "print(load_catalog(with_defaults(DataConfig, root=sys.argv[1])).fingerprint())"
    )
    command = [sys.executable, "-c", program, str(root)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as two,
        ThreadPoolExecutor(4) as pool,
    ):
        catalogs = list(pool.map(load, [root] * 12))
        told = [process.communicate()[0].strip() for process in (one, two)]
    assert all(catalog == catalogs[0] for catalog in catalogs)
    assert told == [catalogs[0].fingerprint()] * 2
    assert len(cached(cache)) == len(catalogs[0].images)


def test_inputs_are_files_folders_and_globs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a" / "notes.txt").write_text("text")
    inside = sorted((root / "a").glob("*.png"))
    assert expand_inputs([str(root / "a")]) == inside
    assert expand_inputs([str(root / "a" / "*.png")]) == inside
    assert expand_inputs([str(inside[1]), str(root / "a")]) == [inside[1], inside[0], *inside[2:]]
    assert len(expand_inputs([str(root / "**" / "*.png")])) == 8
    odd = write_classes(root.parent / "odd [1]", ["x*"], count=1)
    assert expand_inputs([str(odd / "x*" / "000.png")]) == [odd / "x*" / "000.png"]
    for nothing in ("gone.png", "*.gif", "empty"):
        (root / "empty").mkdir(exist_ok=True)
        with pytest.raises(BcdError, match="no image there"):
            expand_inputs([str(root / nothing)])
