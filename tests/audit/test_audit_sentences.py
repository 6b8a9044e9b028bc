"""Findings of the audit match the images and the split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bcd.audit.checks import Check, check_overlaps, check_split
from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.linking import link
from bcd.data.splits.split import Split
from tests.data.splits.test_slide_groups import made_up_statistics, profiled
from tests.helpers.noise import made_up_catalog


def chained(catalog: Catalog, length: int) -> DataProfile:
    """The first images overlap consecutively, the first two the least."""
    pairs = tuple(Overlap(i, i + 1, "overlap", 0.9, 0, 0, 0.2 + i / 100) for i in range(length))
    statistics = made_up_statistics(np.zeros(len(catalog.images), np.int64), 1.0, 0)
    return profiled(statistics, pairs)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def split_checks(
    catalog: Catalog, split: Split, cfg: SplitConfig, chain: int = 0
) -> dict[str, Check]:
    profile = chained(catalog, chain)
    return by_name(check_split(catalog, split, cfg, profile, with_defaults(DataConfig, root=".")))


@pytest.mark.parametrize("length", [3, 30])
def test_pairs_kept_together_by_a_split_by_slides_are_counted(length: int) -> None:
    catalog = made_up_catalog([40, 40])
    profile = chained(catalog, length)
    cut = len(link(np.arange(80), np.asarray(catalog.labels), profile.overlaps)[1])
    assert (cut > 0) == (length == 30)
    fix = by_name(check_overlaps(catalog, profile))["overlaps"].fix
    assert (f"keeps all but {cut} of {length} in the same set" in fix) == (cut > 0)
    assert ("keeps them in the same set" in fix) == (cut == 0)
    none = by_name(check_overlaps(catalog, chained(catalog, 0)))
    assert none["overlaps"].finding == "no other pair shares part of a field"
    assert {check.fix for check in none.values()} == {""}


def test_the_fix_for_leaks_is_not_the_split_that_caused_them() -> None:
    catalog = made_up_catalog([40, 40])
    split = Split(tuple(("train", "test")[i % 2] for i in range(80)), ("g",) * 80)
    for cfg in (
        with_defaults(SplitConfig, kind="grouped", groups="auto"),
        with_defaults(SplitConfig, kind="blocked"),
    ):
        leaks = split_checks(catalog, split, cfg, 4)["leaks"]
        assert leaks.facts["leaked"]
        assert "split=" not in leaks.fix
        assert "accuracy_without_leaked" in leaks.fix
    assert (
        "split=grouped" in split_checks(catalog, split, with_defaults(SplitConfig), 4)["leaks"].fix
    )


@pytest.mark.parametrize("groups", ["auto", "blocks"])
def test_estimated_groups_in_several_sets_are_counted(groups: str) -> None:
    catalog = made_up_catalog([12, 12])
    cfg = with_defaults(SplitConfig, kind="grouped", groups=groups)
    names = tuple(f"g{i // 4}" for i in range(24))
    whole = Split(tuple(("train", "test", "val")[i // 4 % 3] for i in range(24)), names)
    finding = split_checks(catalog, whole, cfg)["separation"].finding
    assert "6 " in finding
    assert "0 of them in more than one of train, val, test" in finding
    parted = replace(whole, subsets=("test", *whole.subsets[1:]))
    finding = split_checks(catalog, parted, cfg)["separation"].finding
    assert "1 of them in more than one of train, val, test" in finding


def test_class_shares_are_reported() -> None:
    catalog = made_up_catalog([10, 10])
    split = Split(tuple("test" if i in (0, 1, 2, 10) else "train" for i in range(20)))
    check = split_checks(catalog, split, with_defaults(SplitConfig, kind="csv"))["class shares"]
    assert check.status == "PASS"  # a CSV asks for no share
    assert check.finding == "test has 30% of class0, 10% of class1"
    none = replace(split, subsets=("test", *["train"] * 19))
    check = split_checks(catalog, none, with_defaults(SplitConfig, kind="csv"))["class shares"]
    assert check.status == "WARN"
    assert "no images of class1" in check.finding
    assert "split.seed" not in check.fix
