"""Pictures of one file are in one set, however the images are split."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from bcd.audit.checks import NOT_ESTABLISHED, check_split
from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog, ImageRecord
from bcd.data.frames import picture_sha256
from bcd.data.splits.split import Split, make_split
from bcd.errors import BcdError
from tests.data.splits.test_slide_groups import made_up_statistics, profiled


def catalog_of(*sizes: int, mixed: bool = False) -> Catalog:
    """Two classes, each with files of so many pictures; `mixed` files have pictures of both."""
    images: list[ImageRecord] = []
    for label in (0, 1):
        for number, size in enumerate(sizes):
            file = f"{'ab'[label]}/{number:02d}.dcm"
            for frame in range(1, size + 1):
                path, one = (file, None) if size == 1 else (f"{file}#{frame}", frame)
                own = frame % 2 if mixed else label
                sha256 = f"{len(images):064x}"
                group = "" if one is None else file
                images.append(ImageRecord(path, own, sha256, 8, 8, group, frame=one))
    return Catalog(Path(), ("a", "b"), 0, tuple(images), ())


def subsets_of_files(catalog: Catalog, split: Split) -> dict[str, set[str]]:
    found = defaultdict(set)
    for image, subset in zip(catalog.images, split.subsets, strict=True):
        if subset != "excluded":
            found[image.file].add(subset)
    return found


SIZES = [4, 7, 1, 3, 1, 5, 2, 1, 6, 1, 4, 3, 5, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "stratified"},
        {"kind": "stratified", "train_share": 0.5},
        {"kind": "kfold", "folds": 4, "fold": 2},
        {"kind": "grouped", "groups": "blocks", "group_size": 5},
        {"kind": "grouped", "groups": "blocks", "group_size": 5, "folds": 3, "fold": 1},
        {"kind": "blocked", "embargo": 0, "group_size": 5},
        {"kind": "blocked", "embargo": 1, "folds": 4, "fold": 1, "group_size": 5},
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_no_split_tears_a_file_apart(settings: dict[str, object], mixed: bool) -> None:
    catalog = catalog_of(*SIZES, mixed=mixed)
    for seed in range(4):
        cfg = with_defaults(SplitConfig, **settings, seed=seed)
        split = make_split(catalog, cfg)
        found = subsets_of_files(catalog, split)
        assert all(len(subsets) == 1 for subsets in found.values())
        assert set.union(*found.values()) == {"train", "val", "test"}
        whole = defaultdict(set)
        for image, cluster in zip(catalog.images, split.clusters, strict=True):
            whole[image.file].add(cluster)
        assert all(len(clusters) == 1 for clusters in whole.values())


def test_shares_of_a_random_split_are_those_asked_for() -> None:
    catalog = catalog_of(*[3, 1, 5, 2] * 12)
    split = make_split(catalog, with_defaults(SplitConfig, test=0.3, val=0.1))
    for label in (0, 1):
        own = [i for i, p in enumerate(catalog.images) if p.label == label]
        tested = sum(split.subsets[i] == "test" for i in own)
        assert abs(tested / len(own) - 0.3) < 0.02


def test_files_of_one_picture_are_split_as_before() -> None:
    alone = catalog_of(*[1] * 40)
    cfg = with_defaults(SplitConfig)
    one = replace(alone.images[0], path="a/00.dcm#1", frame=1, group="a/00.dcm")
    assert make_split(alone, cfg).groups == ("",) * 80
    other = make_split(replace(alone, images=(one, *alone.images[1:])), cfg)
    assert other.groups == ("a/00.dcm", *[""] * 79)


def test_a_class_in_one_file_cannot_be_split() -> None:
    with pytest.raises(BcdError, match=r"no image of class '.' \(pictures of one file are kept"):
        make_split(catalog_of(12), with_defaults(SplitConfig))


def written(file: Path, catalog: Catalog, subsets: Sequence[str], whole: bool) -> SplitConfig:
    names = [image.file if whole else image.path for image in catalog.images]
    with file.open("w", encoding="utf-8", newline="") as stream:
        rows = [("path", "subset"), *dict.fromkeys(zip(names, subsets, strict=True))]
        csv.writer(stream).writerows(rows)
    return with_defaults(SplitConfig, kind="csv", file=str(file))


@pytest.mark.parametrize("whole", [False, True])
def test_a_split_file_names_files_or_pictures(whole: bool, tmp_path: Path) -> None:
    catalog = catalog_of(2, 3, 1, 2)
    first = make_split(catalog, with_defaults(SplitConfig, test=0.4, val=0.4))
    again = make_split(catalog, written(tmp_path / "s.csv", catalog, first.subsets, whole))
    assert again.subsets == first.subsets and again.clusters == first.clusters


def test_a_split_file_that_tears_a_file_is_refused(tmp_path: Path) -> None:
    catalog = catalog_of(2, 3, 1, 2)
    first = make_split(catalog, with_defaults(SplitConfig, test=0.4, val=0.4))
    subsets = list(first.subsets)
    subsets[0] = "val" if subsets[1] == "train" else "train"
    with pytest.raises(BcdError, match=r"pictures of a/00\.dcm are in several of train"):
        make_split(catalog, written(tmp_path / "s.csv", catalog, subsets, whole=False))
    subsets[0] = "excluded"
    kept = make_split(catalog, written(tmp_path / "s.csv", catalog, subsets, whole=False))
    assert kept.subsets == tuple(subsets)


def test_a_moved_data_root_keeps_its_split_and_groups(tmp_path: Path) -> None:
    catalog = catalog_of(2, 3, 1, 2)
    first = make_split(catalog, with_defaults(SplitConfig, test=0.4, val=0.4))
    first.write(tmp_path / "split.csv", catalog)
    moved = [
        replace(image, path=f"new/{image.path}", group=image.group and f"new/{image.group}")
        for image in catalog.images
    ]
    cfg = with_defaults(SplitConfig, kind="csv", file=str(tmp_path / "split.csv"))
    again = make_split(replace(catalog, images=tuple(moved)), cfg)
    assert again.subsets == first.subsets and again.groups == first.groups


def test_a_moved_file_that_a_split_file_names_keeps_its_pictures(tmp_path: Path) -> None:
    catalog = catalog_of(2, 3, 1, 2)
    first = make_split(catalog, with_defaults(SplitConfig, test=0.4, val=0.4))
    hashes = {image.file: sha256(image.file.encode()).hexdigest() for image in catalog.images}
    hashes["b/03.dcm"] = hashes["b/00.dcm"]  # a copy, with a row of its own
    rows = dict(zip((p.file for p in catalog.images), first.subsets, strict=True))
    with (tmp_path / "s.csv").open("w", encoding="utf-8", newline="") as stream:
        given = [(path, subset, hashes[path]) for path, subset in rows.items()]
        csv.writer(stream).writerows([("path", "subset", "sha256"), *given])
    moved = [
        replace(p, path=f"new/{p.path}", sha256=picture_sha256(hashes[p.file], p.frame))
        for p in catalog.images
        if p.path != "a/01.dcm#1"  # such as one that cannot be read
    ]
    cfg = with_defaults(SplitConfig, kind="csv", file=str(tmp_path / "s.csv"))
    again = make_split(replace(catalog, images=tuple(moved)), cfg)
    expected = [rows[p.file.removeprefix("new/")] for p in moved]
    assert list(again.subsets) == expected


def test_files_are_not_told_as_patients() -> None:
    catalog = catalog_of(*[2] * 12)
    cfg = with_defaults(SplitConfig, kind="grouped")
    split = make_split(catalog, cfg)
    profile = profiled(made_up_statistics(np.zeros(48, np.int64), 1.0, 0), ())
    checks = check_split(catalog, split, cfg, profile, with_defaults(DataConfig))
    (found,) = [one for one in checks if one.name == "separation"]
    assert NOT_ESTABLISHED in found.finding
    assert "24 groups (the files of several pictures)" in found.finding
    assert "one patient may have several files" in found.finding
