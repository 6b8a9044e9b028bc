"""Groups that a split CSV names: they are the clusters of intervals and are told of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcd.audit.checks import NOT_ESTABLISHED, check_split
from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import make_split
from bcd.errors import BcdError
from tests.data.splits.test_slide_groups import made_up_statistics, profiled
from tests.helpers.noise import made_up_catalog

CATALOG = made_up_catalog([12, 12])
PARTS = ("train", "train", "val", "test") * 6
GROUPS = [f"p{place // 4}-{place % 4}" for place in range(24)]
SLIDES = [f"s{place // 6}-{part}" for place, part in enumerate(PARTS)]


def written(file: Path, groups: Sequence[str], catalog: Catalog = CATALOG) -> SplitConfig:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "subset", "group"))
        paths = [image.path for image in catalog.images]
        writer.writerows(zip(paths, PARTS, groups, strict=True))
    return with_defaults(SplitConfig, kind="csv", file=str(file))


def with_groups(groups: Sequence[str]) -> Catalog:
    images = [replace(p, group=g) for p, g in zip(CATALOG.images, groups, strict=True)]
    return replace(CATALOG, images=tuple(images))


def profile(overlaps: tuple[Overlap, ...] = ()) -> DataProfile:
    return profiled(made_up_statistics(np.zeros(24, np.int64), 1.0, 0), overlaps)


def test_groups_of_a_split_file_are_the_clusters(tmp_path: Path) -> None:
    split = make_split(CATALOG, written(tmp_path / "split.csv", SLIDES))
    assert split.subsets == PARTS
    assert split.groups == tuple(SLIDES)
    for i, a in enumerate(SLIDES):
        assert [split.clusters[i] == other for other in split.clusters] == [
            a == other for other in SLIDES
        ]


def test_a_run_is_repeated_from_its_split_csv_with_its_groups(tmp_path: Path) -> None:
    blocks = with_defaults(SplitConfig, kind="grouped", groups="blocks", group_size=3)
    first = make_split(CATALOG, blocks, profile())
    first.write(tmp_path / "split.csv", CATALOG)
    again = make_split(
        CATALOG, with_defaults(SplitConfig, kind="csv", file=str(tmp_path / "split.csv")), profile()
    )
    assert len(set(first.groups)) == 8
    assert again == first


def test_groups_follow_files_that_moved(tmp_path: Path) -> None:
    hashed = [replace(p, sha256=f"{i:064d}") for i, p in enumerate(CATALOG.images)]
    catalog = replace(CATALOG, images=tuple(hashed))
    grouped = with_defaults(SplitConfig, kind="grouped", groups="blocks", group_size=3)
    first = make_split(catalog, grouped, profile())
    first.write(tmp_path / "split.csv", catalog)
    moved = replace(catalog, images=tuple(replace(p, path=f"new/{p.path}") for p in catalog.images))
    again = make_split(
        moved, with_defaults(SplitConfig, kind="csv", file=str(tmp_path / "split.csv")), profile()
    )
    assert (again.groups, again.subsets) == (first.groups, first.subsets)


def test_where_a_split_file_names_no_group_the_images_own_serves(tmp_path: Path) -> None:
    named = with_groups(SLIDES)
    split = make_split(named, written(tmp_path / "split.csv", [*SLIDES[:12], *[""] * 12]))
    assert split.groups == tuple(SLIDES)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([*GROUPS[:-1], "q"], r"class1/0023\.png is in group 'q' there, but in 'p5-3' by data"),
        ([f"other {g}" for g in GROUPS], "is in group 'other p0-0' there"),
    ],
)
def test_groups_that_contradict_those_of_the_images_are_refused(
    groups: list[str], message: str, tmp_path: Path
) -> None:
    cfg = written(tmp_path / "split.csv", groups)
    with pytest.raises(BcdError, match=message):
        make_split(with_groups(GROUPS), cfg)


def test_one_path_in_two_groups_is_refused(tmp_path: Path) -> None:
    cfg = written(tmp_path / "split.csv", GROUPS)
    with (tmp_path / "split.csv").open("a") as stream:
        stream.write("class0/0000.png,train,p9\n")
    with pytest.raises(BcdError, match=r"0000\.png is in group 'p9', but in 'p0-0' on an earlier"):
        make_split(CATALOG, cfg)


@pytest.mark.parametrize(
    "path", ["./class0/0000.png", "class0//0000.png", "class1/../class0/0000.png"]
)
def test_one_path_in_two_spellings_is_one(path: str, tmp_path: Path) -> None:
    cfg = written(tmp_path / "split.csv", GROUPS)
    with (tmp_path / "split.csv").open("a") as stream:
        stream.write(f"{path},test,p0-0\n")
    with pytest.raises(BcdError, match=r"0000\.png is in subset 'test', but in 'train' on an"):
        make_split(CATALOG, cfg)
    text = (tmp_path / "split.csv").read_text().removesuffix(f"{path},test,p0-0\n")
    (tmp_path / "split.csv").write_text(text.replace("\nclass0/0000.png", f"\n{path}"))
    assert make_split(CATALOG, cfg).subsets == PARTS


@pytest.mark.parametrize(("groups", "parted"), [(SLIDES, 0), (["one"] * 12 + ["two"] * 12, 2)])
def test_groups_of_a_split_file_do_not_establish_that_patients_are_apart(
    groups: list[str], parted: int, tmp_path: Path
) -> None:
    cfg = written(tmp_path / "split.csv", groups)
    split = make_split(CATALOG, cfg)
    checks = check_split(CATALOG, split, cfg, profile(), with_defaults(DataConfig, root="."))
    check = next(check for check in checks if check.name == "separation")
    assert check.status == "WARN"
    assert check.finding.startswith(NOT_ESTABLISHED)
    count = len(set(groups))
    assert f"{count} groups (split.file's column 'group'); {parted} groups are in" in check.finding
    assert "does not say whether they are patients or estimated slide groups" in check.finding
