"""Windows are compared with a reference as exact tests and scipy compare two samples."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom, fisher_exact, ks_2samp

from bcd.serving.monitoring import drift
from bcd.serving.monitoring.drift import Reference, compare, design_effect
from tests.serving.monitoring.answers import Source

WINDOW, SHARE = 200, 0.05


def test_without_cases_correlated_images_would_set_off_alarms() -> None:
    """With cases they do not; see tests/promises/test_monitoring.py."""
    source, windows = Source(3, 0.1, 0.3, 20), 60
    alarms = 0
    for _ in range(windows):
        scores = source.scores(WINDOW)
        given = (source.referred(scores), scores.tolist(), [None] * WINDOW)
        alarms += bool(compare(source.val(1000), *given, SHARE).alarms)
    assert alarms > binom.ppf(0.999, windows, SHARE)


def test_the_limits_of_referral_are_at_least_as_wide_as_those_of_an_exact_test() -> None:
    """Fisher's test compares the same two counts, given their sum."""
    n, found, window = 300, 15, 100
    for count in range(0, 30, 3):
        exact = fisher_exact([[found, n - found], [count, window - count]], "less")[1]
        assert drift._tails(found / n, n, window)[1][count] >= exact - 1e-9
    low, high = drift.predictive_band(found / n, n, window, SHARE)
    inside = [
        k for k in range(window + 1) if drift.referral_p(found / n, n, k / window, window) > SHARE
    ]
    assert (low, high) == (inside[0] / window, inside[-1] / window)
    assert inside == list(range(inside[0], inside[-1] + 1)) and low < found / n < high


def test_the_limits_exist_where_val_had_none_or_all_referred() -> None:
    for share in (0.0, 1.0):
        low, high = drift.predictive_band(share, 100, WINDOW, 0.005)
        assert (low == 0.0) == (share == 0.0) and (high == 1.0) == (share == 1.0)
        assert low < high
        assert drift.referral_p(share, 100, share, WINDOW) == 1.0
        assert drift.referral_p(share, 100, 0.5, WINDOW) < 1e-6


def test_distances_are_compared_as_scipy_compares_two_samples() -> None:
    source = Source(6, 0.1)
    own, other = source.scores(1000), source.scores(150, 0.2)
    reference = Reference(0.1, 1000, tuple(own.tolist()), 1000, "baseline")
    given = drift.distances_p(reference, other, source.cases(150))
    assert given == pytest.approx(ks_2samp(own, other, method="asymp").pvalue)


def test_the_design_effect_is_one_for_independent_images_and_n_for_one_case() -> None:
    values = Source(7, 0.1).scores(40)
    assert design_effect(values, [None] * 40) == 1
    assert design_effect(values, ["one"] * 40) == 40
    assert design_effect(values * 0, ["a", "b"] * 20) == 1
    # Of cases of equal size m whose images are the same, it is m, but for the few cases.
    same = values[:10].repeat(4)
    cases = [str(i // 4) for i in range(40)]
    assert design_effect(same, cases) == pytest.approx(4 * 10 / 9)


def test_scores_that_are_unknown_are_left_out() -> None:
    reference = Source(8, 0.1).val(200)
    scores: list[float | None] = [None, math.nan, *Source(9, 0.1).scores(50).tolist()]
    found = compare(reference, [False] * 52, scores, [None] * 52, SHARE)
    rest = compare(reference, [False] * 50, scores[2:], [None] * 50, SHARE)
    assert found.p_distances == rest.p_distances and found.worth == 52
    assert compare(reference, [True] * 2, [None] * 2, [None] * 2, SHARE).p_distances is None
