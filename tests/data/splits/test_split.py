from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import FOLDED, DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.splits.split import SUBSETS, Split, make_split, recorded_indices, sha256_of
from bcd.errors import BcdError, ConfigError
from tests.helpers.noise import made_up_catalog, write_classes

SIZES = [(4, 4), (10, 10), (17, 60, 5), (504, 985, 963, 804), (40, 41, 42, 43), (6, 300)]
PARTS = SUBSETS[:3]


def config(**values: Any) -> SplitConfig:
    return with_defaults(SplitConfig, **values)


def share_of(catalog: Catalog, split: Split, subset: str) -> list[float]:
    """Share of each class's images that is in a subset."""
    taken = Counter(catalog.images[i].label for i in split.indices(subset))
    return [taken[i] / count for i, count in enumerate(catalog.counts().values())]


def check_disjoint(catalog: Catalog, split: Split) -> None:
    found = [i for subset in PARTS for i in split.indices(subset)]
    assert sorted(found) == list(range(len(catalog.images))) == split.indices("all")
    assert len(split.subsets) == len(catalog.images)


def in_groups(seed: int) -> Catalog:
    """Images of two to four classes on some slides of uneven size; slides may mix classes."""
    rng = np.random.default_rng(seed)
    catalog = made_up_catalog(rng.integers(30, 80, rng.integers(2, 5)).tolist())
    slides = int(rng.integers(12, 40))
    weights = rng.dirichlet(np.full(slides, 3.0))
    drawn = rng.choice(slides, len(catalog.images), p=weights)
    apart = seed % 2  # every other time a slide has one class only
    groups = [f"s{g}-{p.label * apart}" for g, p in zip(drawn, catalog.images, strict=True)]
    images = [replace(p, group=g) for p, g in zip(catalog.images, groups, strict=True)]
    return replace(catalog, images=tuple(images))


@pytest.mark.parametrize("counts", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_is_70_to_30_in_every_class(counts: tuple[int, ...], seed: int) -> None:
    catalog = made_up_catalog(counts)
    cfg = config(seed=seed)
    split = make_split(catalog, cfg)
    check_disjoint(catalog, split)
    total = sum(counts)
    assert abs(len(split.indices("test")) - cfg.test * total) <= max(0.5, len(counts) - 1)
    for count, share in zip(counts, share_of(catalog, split, "test"), strict=True):
        assert abs(share * count - cfg.test * count) <= 1
    # Val comes out of what test leaves; a rare class has an image in it all the same.
    left = total - len(split.indices("test"))
    wanted = max(len(counts), cfg.val * left)
    assert -0.5 <= len(split.indices("val")) - wanted <= len(counts)
    for count, test, val in zip(
        counts, share_of(catalog, split, "test"), share_of(catalog, split, "val"), strict=True
    ):
        assert abs(val * count - wanted / left * (1 - test) * count) <= 1


def folds_of(kind: str, folds: int) -> int | None:
    """The number of folds for a kind that has them."""
    return folds if kind in FOLDED else None


@pytest.mark.parametrize("kind", ["stratified", "kfold", "grouped"])
def test_a_seed_decides_the_split(kind: str) -> None:
    catalog = in_groups(seed=4)
    seeds = range(5)
    configs = [config(kind=kind, seed=seed, folds=folds_of(kind, 5)) for seed in seeds]
    splits = [make_split(catalog, cfg) for cfg in configs]
    again = [make_split(catalog, cfg) for cfg in configs]
    assert splits == again
    assert len({split.subsets for split in splits}) > 1
    assert kind == "grouped" or len({split.subsets for split in splits}) == len(seeds)
    for split in splits:
        check_disjoint(catalog, split)


def test_the_test_part_does_not_depend_on_the_share_of_val() -> None:
    catalog = made_up_catalog([30, 40])
    splits = [make_split(catalog, config(val=val)) for val in (0.1, 0.5)]
    assert splits[0].indices("test") == splits[1].indices("test")
    assert splits[0].indices("val") != splits[1].indices("val")


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_the_folds_test_every_image_once(folds: int) -> None:
    counts = (23, 31, 8)
    catalog = made_up_catalog(counts)
    tested: list[int] = []
    for fold in range(folds):
        split = make_split(catalog, config(kind="kfold", folds=folds, fold=fold))
        check_disjoint(catalog, split)
        tested += split.indices("test")
        for count, share in zip(counts, share_of(catalog, split, "test"), strict=True):
            assert abs(share * count - count / folds) <= 1
    assert sorted(tested) == list(range(sum(counts)))


@pytest.mark.parametrize("seed", range(40))
def test_no_group_is_on_two_sides(seed: int) -> None:
    catalog = in_groups(seed)
    try:
        split = make_split(catalog, config(kind="grouped", seed=seed))
    except BcdError as error:
        pytest.fail(f"enough small groups were there, yet: {error}")
    check_disjoint(catalog, split)
    sides: dict[str, set[str]] = {}
    for image, subset in zip(catalog.images, split.subsets, strict=True):
        sides.setdefault(image.group, set()).add(subset)
    assert all(len(subsets) == 1 for subsets in sides.values())


def test_groups_of_like_size_come_near_70_to_30_in_every_class() -> None:
    counts = (200, 100, 300)
    for seed in range(10):
        groups = [f"{i % 20}" for count in counts for i in range(count)]
        catalog = made_up_catalog(counts, groups)
        split = make_split(catalog, config(kind="grouped", seed=seed))
        # Slides hold a twentieth of each class: six of them are the share itself.
        assert share_of(catalog, split, "test") == pytest.approx([0.3] * 3)
        far = [abs(share - 0.3) for share in share_of(in_groups(seed), _grouped(seed), "test")]
        assert max(far) < 0.15


def _grouped(seed: int) -> Split:
    return make_split(in_groups(seed), config(kind="grouped", seed=seed))


def test_grouped_wants_a_group_for_each_image() -> None:
    groups = ["s1", "s2", "s3", ""] * 10
    with pytest.raises(BcdError, match=r"10 of 40 have none.*data\.group_pattern"):
        make_split(made_up_catalog([20, 20], groups), config(kind="grouped"))


def test_too_few_groups_are_an_error_that_names_the_part() -> None:
    catalog = made_up_catalog([20, 20], ["s1", "s2"] * 20)
    with pytest.raises(BcdError, match="the val set has no image of class"):
        make_split(catalog, config(kind="grouped", test=0.5))


@pytest.mark.parametrize("kind", ["stratified", "grouped", "kfold"])
def test_a_class_with_one_image_is_an_error_that_names_it(kind: str) -> None:
    catalog = made_up_catalog([20, 1], ["s1", "s2", "s3"] * 7)
    with pytest.raises(BcdError, match=r"class 'class1' has 1 usable image in"):
        make_split(catalog, config(kind=kind, folds=folds_of(kind, 5)))


def test_small_sets_and_odd_shares_split_well_or_end_in_one_line() -> None:
    made = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        catalog = made_up_catalog(rng.integers(1, 12, rng.integers(2, 5)).tolist())
        shares = rng.choice([0.01, 0.1, 0.3, 0.5, 0.9], 2).tolist()
        kind = ("stratified", "kfold")[seed % 2]
        cfg = with_defaults(
            SplitConfig,
            kind=kind,
            test=shares[0],
            val=shares[1],
            folds=folds_of(kind, 2 + seed % 4),
        )
        try:
            split = make_split(catalog, cfg)
        except BcdError as error:
            assert "\n" not in str(error)
            continue
        made += 1
        check_disjoint(catalog, split)
        for subset in PARTS:
            assert min(share_of(catalog, split, subset)) > 0
    assert made > 20


@pytest.fixture
def smears(tmp_path: Path) -> Catalog:
    root = write_classes(tmp_path / "root", count=8)
    return load_catalog(with_defaults(DataConfig, root=str(root)))


@pytest.mark.parametrize("kind", ["stratified", "kfold"])
def test_split_csv_gives_the_same_split_again(kind: str, smears: Catalog, tmp_path: Path) -> None:
    split = make_split(smears, config(kind=kind, seed=3, folds=folds_of(kind, 3)))
    file = tmp_path / "run" / "split.csv"
    split.write(file, smears)
    read = config(kind="csv", file=str(file))
    assert make_split(smears, read) == split
    # By sha256 too, once the files have other names.
    for path in list(smears.root.rglob("*.png")):
        path.rename(path.with_name(f"{9 - int(path.stem)}-moved.png"))
    moved = load_catalog(with_defaults(DataConfig, root=str(smears.root)))
    assert moved.images != smears.images
    again = make_split(moved, read)
    for subset in PARTS:
        before, after = split.hashes(smears)[subset], again.hashes(moved)[subset]
        assert sorted(after) == sorted(before)


def test_moved_copies_of_one_file_keep_their_subsets(smears: Catalog, tmp_path: Path) -> None:
    split = make_split(smears, config())
    first, second = split.indices("train")[0], split.indices("test")[0]
    images = list(smears.images)
    images[second] = replace(images[second], sha256=images[first].sha256)
    split.write(tmp_path / "split.csv", replace(smears, images=tuple(images)))
    # The test copy moves, and a third copy comes that the file does not know.
    images[second] = replace(images[second], path="moved.png")
    images.append(replace(images[second], path="third.png"))
    moved = replace(smears, images=tuple(images))
    again = make_split(moved, config(kind="csv", file=str(tmp_path / "split.csv")))
    assert again.subsets == (*split.subsets, "train")


def test_images_that_a_csv_does_not_name_are_excluded(smears: Catalog, tmp_path: Path) -> None:
    split = make_split(smears, config())
    file = tmp_path / "split.csv"
    left_out = split.indices("train")[0]
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "subset"))
        for i, (image, subset) in enumerate(zip(smears.images, split.subsets, strict=True)):
            if i != left_out:
                writer.writerow((image.path, subset))
    read = make_split(smears, config(kind="csv", file=str(file)))
    assert read.indices("excluded") == [left_out]
    assert read.indices("test") == split.indices("test")
    assert left_out not in read.indices("all")


def test_a_catalog_may_bring_its_own_subsets() -> None:
    catalog = made_up_catalog([5, 5])
    subsets = ("train", "train", "val", "test", "") * 2
    own = [replace(p, subset=s) for p, s in zip(catalog.images, subsets, strict=True)]
    split = make_split(replace(catalog, images=tuple(own)), config(kind="csv"))
    assert split.subsets == tuple(s or "excluded" for s in subsets)
    with pytest.raises(BcdError, match=r"split=csv needs split\.file="):
        make_split(catalog, config(kind="csv"))
    odd = tuple(replace(p, subset="tset") for p in own)
    with pytest.raises(BcdError, match=r"unknown subset 'tset'; known are train, val, test"):
        make_split(replace(catalog, images=odd), config(kind="csv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,subset\nclass0/0000.png,tset\n", "unknown subset 'tset'"),
        (b"path,class\nclass0/0000.png,a\n", "requires the columns path and subset"),
        (b"", "requires the columns path and subset"),
        (
            b"path,subset\na.png,train\na.png,test\n",
            "line 3: a.png is in subset 'test', but in 'train' on",
        ),
        (b"path,subset\nelsewhere.png,train\n", "none of its images is in"),
        (b"path,subset\nclass0/0000.png,train\n", "train set has no image of class 'class1'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not a CSV"),
    ],
)
def test_unfit_split_files_are_errors(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    file.write_bytes(content)
    with pytest.raises(BcdError, match=message):
        make_split(made_up_catalog([5, 5]), config(kind="csv", file=str(file)))


def test_a_missing_split_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split\.file=.*gone\.csv: No such file"):
        make_split(made_up_catalog([5, 5]), config(kind="csv", file=str(tmp_path / "gone.csv")))


def test_recorded_images_are_found_as_often_as_their_hash_is_listed() -> None:
    catalog = made_up_catalog([6, 6])
    twin = catalog.images[0].sha256
    images = [
        replace(p, sha256=twin) if i in (0, 4, 9) else p for i, p in enumerate(catalog.images)
    ]
    catalog = replace(catalog, images=tuple(images))
    subsets = ["train", "val", "test"] * 4  # two of the twins are train, one val
    split = Split(tuple(subsets))
    assert [subsets[i] for i in (0, 4, 9)] == ["train", "val", "train"]
    for subset, recorded in split.hashes(catalog).items():
        found = recorded_indices(catalog, recorded)
        hashes = sorted(map(sha256_of, recorded))
        assert sorted(catalog.images[i].sha256 for i in found) == hashes
        assert len(found) == len(set(found)) == subsets.count(subset)
    assert recorded_indices(catalog, ["unknown"]) == []
