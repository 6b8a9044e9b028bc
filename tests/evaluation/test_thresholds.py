"""Thresholds and limits chosen on val, and their guarantees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.thresholds import (
    find_scope,
    lower_limit,
    threshold_for_sensitivity,
    threshold_rank,
    units_needed,
)
from bcd.reporting.guarantees import referral_rules, threshold_guarantee

CONFIDENCE = 0.9
# So many of 500 vals may miss where each misses with a chance of 10 %: one test in 10,000 has more.


def test_the_rank_is_the_largest_that_keeps_the_guarantee() -> None:
    for n in (20, 145, 459, 460, 777, 1000):
        for wanted in (0.9, 0.995, 1.0):
            rank = threshold_rank(n, wanted, CONFIDENCE)
            # The share of the scores above the k-th lowest of n is distributed as Beta(n+1-k, k).
            chances = stats.beta.cdf(wanted, n + 1 - np.arange(1, n + 1), np.arange(1, n + 1))
            assert rank == int((chances <= 1 - CONFIDENCE).sum())
    assert (threshold_rank(459, 0.995, CONFIDENCE), threshold_rank(460, 0.995, CONFIDENCE)) == (
        0,
        1,
    )
    assert units_needed(0.995, CONFIDENCE) == 460
    assert units_needed(1.0, CONFIDENCE) is None


def test_a_small_val_guarantees_what_it_supports_and_an_empty_one_nothing() -> None:
    scores, ill = np.linspace(0.2, 0.9, 30), np.arange(30) >= 5
    found = threshold_for_sensitivity(scores, ill, 0.995, CONFIDENCE)
    assert (found.threshold, found.n_units) == (scores[5], 25)
    assert found.guaranteed == pytest.approx(0.1 ** (1 / 25))
    assert threshold_for_sensitivity(scores, ~ill & ill, 0.995, CONFIDENCE) == (0.0, 0.0, 0)


def test_the_threshold_of_a_small_val_is_at_most_one_half() -> None:
    scores, ill = np.linspace(0.7, 0.9, 30), np.ones(30, bool)
    found = threshold_for_sensitivity(scores, ill, 0.995, CONFIDENCE)
    assert (found.threshold, found.n_units) == (0.5, 30)
    # Where val is large enough for what is wanted, that decides.
    assert threshold_for_sensitivity(scores, ill, 0.9, CONFIDENCE).threshold == scores[0]


def test_ties_are_all_called_malignant() -> None:
    scores = np.repeat([0.1, 0.5, 0.9], (1, 900, 99))
    found = threshold_for_sensitivity(scores, np.ones(1000, bool), 0.9, CONFIDENCE)
    assert found.threshold == 0.5


def test_only_groups_with_malignant_images_count() -> None:
    scores = np.array([0.01, 0.4, 0.3, 0.8, 0.02])
    ill = np.array([False, True, True, True, False])
    found = threshold_for_sensitivity(scores, ill, 0.5, CONFIDENCE, ["a", "a", "b", "b", "c"])
    assert (found.threshold, found.n_units) == (0.3, 2)
    assert found.guaranteed == pytest.approx(0.1**0.5)


def test_groups_of_one_image_count_as_images() -> None:
    scores = np.random.default_rng(4).random(133)
    for share in (0.02, 0.05, 0.3):
        alone = lower_limit(scores, share, [str(i) for i in range(133)])
        assert alone == lower_limit(scores, share)
        assert alone.value == np.sort(scores)[int(share * 134) - 1]


def test_the_population_of_guarantees_follows_from_the_split() -> None:
    val, train = ["a", "", "b", "a"], ["c", "", "d"]
    for kind in ("stratified", "kfold"):
        assert find_scope(kind, val, train).groups is None
        assert "not to new slides" in find_scope(kind, val, train).population
        of_files = find_scope(kind, val, train, files=["f", "", *["f"] * (len(val) - 2)])
        assert of_files.groups is not None
        assert [name == of_files.groups[0] for name in of_files.groups] == [
            place != 1 for place in range(len(val))
        ]
        assert "not to new slides; each file has the same weight" in of_files.population
    for kind, about in (
        ("grouped", "new group"),
        ("csv", "new group"),
        ("blocked", "adjacent in file order"),
    ):
        scope = find_scope(kind, val, train)
        assert scope.groups is not None
        assert len(set(scope.groups)) == 3  # the one without a name stands for itself
        assert about in scope.population
        assert find_scope(kind, ["", ""], train).groups is None
    # One of two groups is known to training; the blocks of a contiguous val are cut all the time.
    assert (
        "1 of which also have images in train" in find_scope("csv", val, [*train, "a"]).population
    )
    overlapping = find_scope("csv", val, train, known=False)
    assert overlapping.by_overlaps and "do not overlap are independent" in overlapping.population
    assert overlapping.groups == find_scope("csv", val, train).groups
    assert "new" not in find_scope("blocked", val, train).population


def test_no_guarantee_is_rounded_up_and_no_missing_limit_is_mentioned() -> None:
    policy = DecisionPolicy(
        malignant_threshold=0.3,
        benign=0,
        confidence=0.9996,
        target_sensitivity=0.9996,
        guaranteed_sensitivity=0.1,
        n_malignant_units=1,
        confidence_threshold=-np.inf,
    )
    assert "with confidence 99.9%" in threshold_guarantee(policy)
    assert "the target of 99.96% would need" in threshold_guarantee(policy)
    assert "inf" not in referral_rules(policy)
    assert "below" not in referral_rules(policy)
    assert "disagree" in referral_rules(policy)
    assert "below 0.400" in referral_rules(replace(policy, confidence_threshold=0.4))
    assert "disagree" not in referral_rules(replace(policy, malignant_threshold=None))
