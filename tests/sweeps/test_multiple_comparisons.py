"""Comparisons of configurations with the best one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from bcd.evaluation.paired_tests import mcnemar_p_value
from bcd.sweeps.multiple_comparisons import compare_with_best, find_best, overdispersion
from tests.promises.sweeps import World, simulate


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limits threads, which only slow down such small matrices."""
    with threadpool_limits(1):
        yield


def test_variation_between_runs_widens_the_intervals() -> None:
    rng = np.random.default_rng(0)
    steady, wild = World(images=400), World(images=400, wander=0.3)
    ratios = [[overdispersion(*simulate(w, rng))[0] for _ in range(20)] for w in (steady, wild)]
    assert np.mean(ratios[0]) < 1.3
    assert np.mean(ratios[1]) > 3
    one = World(runs=1, images=400, wander=0.3)
    assert overdispersion(*simulate(one, rng)) == (1.0, 0)


def test_two_configurations_with_one_run_are_compared_by_mcnemars_test() -> None:
    right = np.ones((2, 300))
    right[0, :4] = 0
    right[1, 4:20] = 0
    apart = np.arange(300)
    _, other = compare_with_best(right, 0, apart, np.zeros(300, np.int64), draws=20000)
    assert other is not None
    assert other.p_value == pytest.approx(mcnemar_p_value(16, 4), abs=0.003)
    assert other.difference == pytest.approx(-12 / 300)
    assert other.low < other.difference < other.high < 0


def test_images_of_a_group_count_as_one() -> None:
    right = np.ones((2, 300))
    right[1, :12] = 0
    alone = compare_with_best(right, 0, np.arange(300), np.zeros(300, np.int64))[1]
    together = compare_with_best(right, 0, np.arange(300) // 12, np.zeros(300, np.int64))[1]
    assert alone is not None and together is not None
    assert alone.p_value < 0.01
    assert together.p_value > 0.9
    assert alone.difference == together.difference


def test_the_interval_and_the_p_value_agree() -> None:
    rng = np.random.default_rng(3)
    for world in (World(better=0.03), World(configurations=5, better=0.02, wander=0.1)):
        for _ in range(30):
            right, clusters, runs = simulate(world, rng)
            best = find_best(right, np.zeros(len(right)))
            for against in compare_with_best(right, best, clusters, runs):
                if against is not None:
                    assert (against.p_value < 0.05) == (against.high <= 0)


def test_the_limits_hold_for_all_configurations_simultaneously() -> None:
    rng = np.random.default_rng(5)
    right, clusters, runs = simulate(World(configurations=9, better=0.03, accuracy=0.94), rng)
    many = compare_with_best(right, 0, clusters, runs)
    few = compare_with_best(right[:2], 0, clusters, runs)
    assert many[1] is not None and few[1] is not None
    assert many[1].difference == few[1].difference
    assert many[1].low < few[1].low - 0.003


def test_missing_predictions_are_left_out_and_equal_ones_differ_by_exactly_0() -> None:
    right, clusters, runs = simulate(World(configurations=3), np.random.default_rng(0))
    right = np.concatenate([right, right[:1], np.full_like(right[:1], np.nan)])
    right[1, runs == 4] = np.nan
    found = compare_with_best(right, 0, clusters, runs)
    assert found[0] is None and found[4] is None
    assert found[1] is not None and found[1].n == 560
    asked = runs < 4
    assert found[1].difference == pytest.approx((right[1] - right[0])[asked].mean())
    assert found[3] is not None
    assert (found[3].difference, found[3].low, found[3].high, found[3].p_value) == (0, 0, 0, 1)


def test_ties_are_broken_by_the_loss() -> None:
    right = np.array([[1.0, 0, 1], [0, 1, 1], [0, 0, 1]])
    assert find_best(right, np.array([0.2, 0.1, 0.0])) == 1
    assert find_best(right, np.array([0.1, 0.2, 0.0])) == 0
