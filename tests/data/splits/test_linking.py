"""Overlaps join what a split keeps together; chains of them are cut where they are weakest."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bcd.audit.leaks import find_leaks
from bcd.audit.pairs import cross_set_pairs
from bcd.config.compose import with_defaults
from bcd.config.schema import SplitConfig
from bcd.data.quality.overlaps import Overlap
from bcd.data.splits.linking import link, settle
from bcd.data.splits.split import Split, make_split
from tests.data.splits.test_slide_groups import made_up_statistics, profiled
from tests.helpers.noise import made_up_catalog


def chain(count: int, shares: np.ndarray) -> tuple[Overlap, ...]:
    return tuple(
        Overlap(i, i + 1, "overlap", share=float(share))
        for i, share in zip(range(count - 1), shares, strict=True)
    )


def test_a_chain_is_cut_at_its_weakest_links() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(40, np.int64)
    shares = rng.uniform(0.5, 0.9, 39)
    weak = [7, 15, 23, 31]  # sets of eight between them
    shares[weak] = rng.uniform(0.1, 0.3, 4)
    sets, cut = link(np.arange(40), labels, chain(40, shares), largest=0.3)
    assert sorted(pair.first for pair in cut) == weak
    np.testing.assert_array_equal(sets, np.arange(40) // 8)


def test_no_set_grows_larger_than_its_share_but_by_copies() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [200, 60])
    groups = rng.integers(0, 40, 260) + 100 * labels
    pairs = [
        Overlap(int(min(i, j)), int(max(i, j)), "overlap", share=float(share))
        for i, j, share in zip(*rng.integers(0, 260, (2, 300)), rng.random(300), strict=True)
        if i != j
    ]
    sets, cut = link(groups, labels, pairs)
    for own in np.unique(sets):
        assert (np.bincount(labels[sets == own], minlength=2) <= 0.3 * np.array([200, 60])).all()
    assert cut
    assert all(sets[pair.first] != sets[pair.second] for pair in cut)
    assert len({(int(g), int(s)) for g, s in zip(groups, sets, strict=True)}) == len(set(groups))
    copies = [Overlap(pair.first, pair.second, "bytes") for pair in pairs]
    sets, cut = link(groups, labels, copies)
    assert cut == []


def test_pairs_of_small_classes_are_not_cut() -> None:
    sets, cut = link(np.arange(6), np.zeros(6, np.int64), chain(3, np.array([0.2, 0.2])))
    assert cut == []
    assert Counter(sets.tolist()).most_common(1)[0][1] == 3


def test_a_set_moves_into_the_group_that_holds_most_of_it() -> None:
    groups = np.array([5, 5, 5, 2, 2, 2, 9])
    sets = np.array([0, 1, 1, 1, 3, 4, 4])
    np.testing.assert_array_equal(settle(groups, sets), [5, 5, 5, 5, 2, 2, 2])


def leaking(split: Split, profile: object) -> set[int]:
    return {
        i
        for pair in profile.overlaps  # type: ignore[attr-defined]
        for i, other in ((pair.first, pair.second), (pair.second, pair.first))
        if split.subsets[i] == "test" and split.subsets[other] in ("train", "val")
    }


def test_what_a_cut_chain_leaks_is_counted() -> None:
    """All of a class hangs together in one chain: no split can keep it whole."""
    catalog = made_up_catalog([120, 120])
    rng = np.random.default_rng(0)
    statistics = made_up_statistics(np.arange(240) // 20, 4, 0)
    profile = profiled(statistics, chain(120, rng.uniform(0.1, 0.9, 119)))
    for kind, groups in (("grouped", "auto"), ("grouped", "blocks")):
        cfg = with_defaults(SplitConfig, kind=kind, groups=groups, group_size=15)
        split = make_split(catalog, cfg, profile)
        found = find_leaks(profile, *(split.indices(part) for part in ("train", "val", "test")))
        assert split.cut > 0
        assert set(found.all) == leaking(split, profile)
        assert 0 < len(found.all) <= 2 * split.cut
        assert len(cross_set_pairs(profile, split)) <= split.cut
    blocked = make_split(catalog, with_defaults(SplitConfig, kind="blocked", embargo=2), profile)
    assert leaking(blocked, profile) == set()


def test_leaks_into_train_and_val_are_counted_apart() -> None:
    pairs = (
        Overlap(0, 4, "overlap", share=0.3),
        Overlap(1, 3, "bytes"),
        Overlap(1, 5, "overlap", share=0.5),  # so 3, a copy of 1, overlaps 5
    )
    profile = profiled(made_up_statistics(np.zeros(8, np.int64), 1, 0), pairs)
    found = find_leaks(profile, [0, 1, 2], [3], [4, 5, 6, 7])
    assert (found.train, found.val, found.all) == ((4, 5), (5,), [4, 5])
    assert found.summary == "2 of 4 test images overlap one in train or val (2 in train, 1 in val)"


def test_images_that_overlap_are_one_cluster_of_a_random_split() -> None:
    catalog = made_up_catalog([60, 60])
    pairs = chain(4, np.full(3, 0.4))
    profile = profiled(made_up_statistics(np.zeros(120, np.int64), 1, 0), pairs)
    split = make_split(catalog, with_defaults(SplitConfig), profile)
    assert len(set(split.clusters[:4])) == 1
    assert split.clusters[0]
    assert set(split.clusters[4:]) == {""}
    assert not any(split.groups)
    given = made_up_catalog([60, 60], [str(i // 5) for i in range(120)])
    clusters = make_split(
        given, with_defaults(SplitConfig), profiled(profile.statistics, (pairs[0], pairs[0]))
    )
    assert clusters.clusters == clusters.groups
    joined = make_split(
        given,
        with_defaults(SplitConfig),
        profiled(profile.statistics, (Overlap(4, 5, "overlap", share=0.2),)),
    )
    assert len(set(joined.clusters)) == len(set(joined.groups)) - 1
    assert joined.clusters[0] == joined.clusters[9]
