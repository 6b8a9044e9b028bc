"""Windows are compared with a reference as exact tests and scipy compare two samples."""

from __future__ import annotations

import pytest
from scipy.stats import fisher_exact, ks_2samp

from bcd.serving.monitoring import drift
from bcd.serving.monitoring.drift import Reference, compare
from tests.serving.monitoring.answers import Source

WINDOW, SHARE = 200, 0.05


def test_the_limits_of_referral_are_at_least_as_wide_as_those_of_an_exact_test() -> None:
    """Fisher's test compares the same two counts, given their sum."""
    n, found, window = 300, 15, 100
    for count in range(0, 30, 3):
        exact = fisher_exact([[found, n - found], [count, window - count]], "less")[1]
        assert drift._tails(found / n, n, window)[1][count] >= exact - 1e-9
    low, high = drift.predictive_band(found / n, n, window, SHARE)
    inside = [k for k in range(window + 1) if drift.referral_p(found / n, n, k, window) > SHARE]
    assert (low, high) == (inside[0] / window, inside[-1] / window)
    assert inside == list(range(inside[0], inside[-1] + 1)) and low < found / n < high


def test_the_limits_exist_where_val_had_none_or_all_referred() -> None:
    for share in (0.0, 1.0):
        low, high = drift.predictive_band(share, 100, WINDOW, 0.005)
        assert (low == 0.0) == (share == 0.0) and (high == 1.0) == (share == 1.0)
        assert low < high
        assert drift.referral_p(share, 100, round(share * WINDOW), WINDOW) == 1.0
        assert drift.referral_p(share, 100, WINDOW // 2, WINDOW) < 1e-6


def test_distances_are_compared_as_scipy_compares_two_samples() -> None:
    source = Source(6, 0.1)
    own, other = source.scores(1000), source.scores(150, 0.2)
    reference = Reference(0.1, 1000, tuple(own.tolist()), 1000, "baseline", "baseline")
    given = drift.distances_p(reference, other.tolist())
    assert given == pytest.approx(ks_2samp(own, other, method="asymp").pvalue)


def test_images_without_scores_are_compared_by_referral_alone() -> None:
    found = compare(Source(8, 0.1).val(200), [True] * 50, [], SHARE)
    assert found.p_distances is None and found.alarms == (drift.REFERRAL,)
