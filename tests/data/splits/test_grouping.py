"""Grouped and blocked splits never part what belongs together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.file_order import file_order
from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.split import SUBSETS, Split, far_from_share, make_split
from bcd.errors import BcdError, ConfigError
from tests.data.splits.test_slide_groups import made_up_statistics, profiled
from tests.helpers.noise import made_up_catalog

PARTS = SUBSETS[:3]


def some_overlaps(catalog: Catalog, rng: np.random.Generator) -> tuple[Overlap, ...]:
    """Pairs anywhere in a class, a few in each."""
    labels = np.asarray(catalog.labels)
    pairs = [rng.choice(np.flatnonzero(labels == k), (3, 2)) for k in np.unique(labels)]
    ordered = np.sort(np.concatenate(pairs), axis=1)
    return tuple(Overlap(int(i), int(j), "near", 0.9) for i, j in ordered if i < j)


def on_slides(seed: int, apart: bool = True) -> tuple[Catalog, DataProfile]:
    """Two to four classes on slides of uneven size, with overlaps across them."""
    rng = np.random.default_rng(seed)
    catalog = made_up_catalog(rng.integers(150, 300, rng.integers(2, 5)).tolist())
    count = len(catalog.images)
    slide = rng.choice(30, count, p=rng.dirichlet(np.full(30, 3.0)))
    names = [f"s{s}-{p.label * apart}" for s, p in zip(slide, catalog.images, strict=True)]
    images = [replace(p, group=g) for p, g in zip(catalog.images, names, strict=True)]
    profile = profiled(made_up_statistics(slide, 4, seed), some_overlaps(catalog, rng))
    return replace(catalog, images=tuple(images)), profile


def parts_of(split: Split, members: list[int]) -> set[str]:
    return {split.subsets[i] for i in members} - {"excluded"}


@pytest.mark.parametrize("groups", ["given", "auto", "blocks"])
@pytest.mark.parametrize("seed", range(12))
def test_grouped_parts_neither_a_group_nor_overlaps(groups: str, seed: int) -> None:
    catalog, profile = on_slides(seed)
    cfg = with_defaults(SplitConfig, kind="grouped", groups=groups, seed=seed, group_size=15)
    split = make_split(catalog, cfg, profile)
    assert "excluded" not in split.subsets
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(split.groups):
        members[group].append(index)
    assert len(members) > 3
    for own in [*members.values(), *([t.first, t.second] for t in profile.overlaps)]:
        assert len(parts_of(split, own)) == 1
    said = far_from_share(catalog, split, cfg)
    tested = np.bincount([catalog.images[i].label for i in split.indices("test")])
    for share, name in zip(tested / list(catalog.counts().values()), catalog.classes, strict=True):
        assert (abs(share - cfg.test) > 0.03) == any(f" {name}, " in line for line in said)


@pytest.mark.parametrize("seed", range(12))
def test_shares_are_kept_where_groups_allow_it(seed: int) -> None:
    """Where some choice of whole groups comes within three points, one is found."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 60, (3, 9))
    groups = [
        f"{k}-{g}" for k, row in enumerate(sizes) for g, n in enumerate(row) for _ in range(n)
    ]
    catalog = made_up_catalog(sizes.sum(axis=1).tolist(), groups)
    cfg = with_defaults(SplitConfig, kind="grouped", seed=seed)
    split = make_split(catalog, cfg)
    tested = np.bincount([catalog.images[i].label for i in split.indices("test")])
    for k, row in enumerate(sizes):
        sums = {
            sum(chosen) / row.sum() for r in range(1, len(row)) for chosen in combinations(row, r)
        }
        possible = min(abs(share - cfg.test) for share in sums)
        assert abs(tested[k] / row.sum() - cfg.test) <= max(0.03, possible + 1e-9)


def positions(catalog: Catalog, split: Split, label: int) -> dict[str, list[int]]:
    """Places in file order of a class's images, by part."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, index in enumerate(file_order(catalog, label)):
        found[split.subsets[index]].append(place)
    return found


@pytest.mark.parametrize("folds", [None, 5])
@pytest.mark.parametrize("embargo", [0, 1, 12])
@pytest.mark.parametrize("seed", range(5))
def test_blocked_leaves_an_embargo_between_any_two_parts(
    folds: int | None, embargo: int, seed: int
) -> None:
    catalog, profile = on_slides(seed)
    for fold in range(folds or 1):
        cfg = with_defaults(
            SplitConfig, kind="blocked", folds=folds, fold=fold, embargo=embargo, seed=seed
        )
        split = make_split(catalog, cfg, profile)
        for pair in profile.overlaps:
            assert len(parts_of(split, [pair.first, pair.second])) <= 1
        free = make_split(catalog, cfg)  # without overlaps blocks are whole
        for label, count in enumerate(catalog.counts().values()):
            places = positions(catalog, free, label)
            assert len(places["test"]) == pytest.approx(count * (0.2 if folds else 0.3), abs=1)
            for part in ("test", "val"):
                assert places[part] == list(range(places[part][0], places[part][-1] + 1))
            for one, other in combinations(PARTS, 2):
                gap = min(abs(a - b) for a in places[one] for b in places[other])
                assert gap > embargo
                if (one, other) == ("train", "test"):
                    assert gap == embargo + 1  # nothing but the embargo is between them
            # Val is the end of the longer side.
            before, after = places["test"][0], count - 1 - places["test"][-1]
            assert places["val"][0] == 0 if before > after else places["val"][-1] == count - 1
            tested = [i for i in split.indices("test") if catalog.images[i].label == label]
            whole = [i for i in free.indices("test") if catalog.images[i].label == label]
            assert tested == whole  # for an overlap's sake train gives way, never test


@pytest.mark.parametrize("kind", ["grouped", "blocked"])
def test_folds_test_every_image_once(kind: str) -> None:
    catalog, profile = on_slides(3)
    tested: list[int] = []
    for fold in range(5):
        cfg = with_defaults(
            SplitConfig, kind=kind, folds=5, fold=fold, embargo=5, groups="auto", group_size=10
        )
        split = make_split(catalog, cfg, profile)
        tested += split.indices("test")
        for pair in profile.overlaps:
            assert len(parts_of(split, [pair.first, pair.second])) <= 1
        if kind == "grouped":
            whole: dict[str, set[str]] = defaultdict(set)
            for group, subset in zip(split.groups, split.subsets, strict=True):
                whole[group].add(subset)
            assert all(len(subsets) == 1 for subsets in whole.values())
    assert sorted(tested) == list(range(len(catalog.images)))


def test_blocked_places_follow_the_seed() -> None:
    catalog, _ = on_slides(1)
    splits = [
        make_split(catalog, with_defaults(SplitConfig, kind="blocked", seed=s, embargo=4))
        for s in range(6)
    ]
    again = [
        make_split(catalog, with_defaults(SplitConfig, kind="blocked", seed=s, embargo=4))
        for s in range(6)
    ]
    assert splits == again
    assert len(set(splits)) == 6


def test_val_keeps_the_embargo_where_the_longer_side_is_short() -> None:
    catalog = made_up_catalog([100, 101])  # of each, 34 files follow the test set, and val is 7
    cfg = with_defaults(SplitConfig, kind="blocked", folds=3, fold=1, embargo=30)
    split = make_split(catalog, cfg)
    for label in range(2):
        places = positions(catalog, split, label)
        for one, other in combinations(PARTS, 2):
            assert min(abs(a - b) for a in places[one] for b in places[other]) > 30


def test_an_embargo_larger_than_a_class_is_one_line() -> None:
    catalog = made_up_catalog([20, 200])
    with pytest.raises(BcdError, match="no image of class 'class0'"):
        make_split(catalog, with_defaults(SplitConfig, kind="blocked", embargo=30))


def test_wrong_values_are_wrong_use() -> None:
    wrongs: list[dict[str, Any]] = [
        {"groups": "slides"},
        {"embargo": -1},
        {"group_size": 1},
        {"kind": "kfold"},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="split"):
            with_defaults(SplitConfig, **wrong)
