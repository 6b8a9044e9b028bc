"""What the audit says of overlaps, shares and separation follows from images and split."""

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
    """The first images overlap one after the other, the first two the least."""
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
def test_what_a_split_by_slides_keeps_together_is_counted(length: int) -> None:
    catalog = made_up_catalog([40, 40])
    profile = chained(catalog, length)
    cut = len(link(np.arange(80), np.asarray(catalog.labels), profile.overlaps)[1])
    assert (cut > 0) == (length == 30)
    fix = by_name(check_overlaps(catalog, profile))["overlaps"].fix
    assert (f"keeps all but {cut} of {length} on one side" in fix) == (cut > 0)
    assert ("keeps them on one side" in fix) == (cut == 0)
    none = by_name(check_overlaps(catalog, chained(catalog, 0)))
    assert none["overlaps"].finding == "no other pair was found to share a field"
    assert {check.fix for check in none.values()} == {""}


def test_leaks_of_a_split_that_cut_chains_are_not_fixed_by_the_same_split() -> None:
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
def test_guessed_groups_in_more_than_one_part_are_counted(groups: str) -> None:
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


def test_shares_are_told_as_they_are() -> None:
    catalog = made_up_catalog([10, 10])
    split = Split(tuple("test" if i in (0, 1, 2, 10) else "train" for i in range(20)))
    check = split_checks(catalog, split, with_defaults(SplitConfig, kind="csv"))["shares"]
    assert check.status == "PASS"  # a CSV asks for no share
    assert check.finding == "test holds 30% of class0, 10% of class1"
    none = replace(split, subsets=("test", *["train"] * 19))
    check = split_checks(catalog, none, with_defaults(SplitConfig, kind="csv"))["shares"]
    assert check.status == "WARN"
    assert "no image of class1" in check.finding
    assert "split.seed" not in check.fix
