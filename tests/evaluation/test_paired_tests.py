"""Two models on the same images: ties are recognized, and so is a worse model."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import join_groups
from bcd.evaluation.paired_tests import (
    Difference,
    mcnemar_p_value,
    paired_interval,
    paired_p_value,
    verdict,
)

K = 4


def tied(
    rng: np.random.Generator, n: int, groups: int | None, worse: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
    """Labels, predictions of two models, the second worse by a given amount, and groups."""
    labels = rng.choice(K, size=n, p=(0.15, 0.3, 0.3, 0.25))
    owners = None if groups is None else rng.integers(0, groups, n)
    predicted = []
    for lost in (0.0, 0.0, worse):  # the first is what the two have in common
        right = np.full(n, 0.92 - lost)
        if groups is not None and owners is not None:
            right = rng.beta(9 * (0.92 - lost), 9 * (0.08 + lost), size=groups)[owners]
        predicted.append(
            np.where(rng.random(n) < right, labels, (labels + rng.integers(1, K, n)) % K)
        )
    same = rng.random(n) < 0.4
    return (
        labels,
        np.where(same, predicted[0], predicted[1]),
        np.where(same, predicted[0], predicted[2]),
        owners,
    )


def test_a_model_against_itself_differs_by_exactly_0() -> None:
    labels, a, _, owners = tied(np.random.default_rng(1), 300, 20)
    for groups in (None, owners, np.zeros(300)):
        assert set(paired_interval(labels, a, a, K, groups).values()) == {(0.0, 0.0, 0.0)}


def test_a_worse_model_is_detected_and_the_sign_follows_the_order() -> None:
    labels, a, b, _ = tied(np.random.default_rng(2), 2000, None, worse=0.15)
    there, back = paired_interval(labels, a, b, K), paired_interval(labels, b, a, K)
    assert there["accuracy"].value == pytest.approx((a == labels).mean() - (b == labels).mean())
    for name, (value, low, high) in there.items():
        assert 0 < low < value < high
        assert back[name] == pytest.approx((-value, -high, -low), abs=0.003)  # other draws


def test_what_both_find_hard_cancels_out() -> None:
    labels, a, _, _ = tied(np.random.default_rng(3), 1000, None)
    b = a.copy()
    b[:40] = (labels[:40] + 1) % K
    paired = paired_interval(labels, a, b, K)["accuracy"]
    shuffled = np.random.default_rng(0).permutation(1000)
    shift = (labels - labels[shuffled] + b[shuffled]) % K  # as right as before, on others
    unpaired = paired_interval(labels, a, shift, K)["accuracy"]
    assert unpaired.value == pytest.approx(paired.value)
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)


def test_one_group_gives_the_widest_interval() -> None:
    given = paired_interval(np.array([0, 1]), np.array([0, 1]), np.array([0, 0]), K, ["a", "a"])
    assert given["accuracy"] == (0.5, -1.0, 1.0)


def test_groups_that_are_similar_by_chance_do_not_narrow_the_interval() -> None:
    labels = np.repeat(np.arange(K), 50)
    owners = np.arange(200) % 10
    a, b = labels.copy(), labels.copy()
    b[:10] = (labels[:10] + 1) % K  # one more mistake in each group
    grouped = paired_interval(labels, a, b, K, owners)["accuracy"]
    alone = paired_interval(labels, a, b, K)["accuracy"]
    assert grouped.value == alone.value == pytest.approx(0.05)
    assert grouped.low <= alone.low < alone.high <= grouped.high
    b = labels.copy()
    b[0], a[10] = 3, 3  # a mistake each, in the same group
    given = paired_interval(labels, a, b, K, owners)["accuracy"]
    assert given.value == 0 and -0.03 < given.low < 0 < given.high < 0.03


def test_the_verdict_needs_both_interval_and_p_value() -> None:
    better = Difference(0.012, 0.003, 0.021)
    assert verdict(better, 0.01) == "b is better by 1.2 points [0.3, 2.1]"
    assert verdict(Difference(-0.012, -0.021, -0.003), 0.01) == (
        "a is better by 1.2 points [0.3, 2.1]"
    )
    assert verdict(better, 0.06).startswith("not distinguishable: b - a = +1.2 points [+0.3")
    assert verdict(Difference(0.012, -0.003, 0.027), 0.01).startswith("not distinguishable")
    assert verdict(Difference(0.0, 0.0, 0.0), 1.0).startswith("not distinguishable")


def test_mcnemar_is_the_sign_test() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(3, 3) == 1.0
    assert mcnemar_p_value(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar_p_value(1, 5) == mcnemar_p_value(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar_p_value(500, 700) < 1e-7


def test_the_p_value_of_groups_of_one_image_is_that_of_images() -> None:
    labels, a, b, owners = tied(np.random.default_rng(4), 300, 20, worse=0.1)
    of_a, of_b = a == labels, b == labels
    alone = paired_p_value(of_a, of_b, np.arange(300))
    exact = paired_p_value(of_a, of_b)
    assert exact == mcnemar_p_value(int((of_a & ~of_b).sum()), int((of_b & ~of_a).sum()))
    assert alone == pytest.approx(exact, abs=0.02)
    assert paired_p_value(of_a, of_b, np.zeros(300)) == 1.0
    assert paired_p_value(of_a, of_b, owners) == pytest.approx(paired_p_value(of_b, of_a, owners))


def test_groupings_are_joined_through_shared_images() -> None:
    found = join_groups([["x", "x", "", "", "y"], ["", "x", "x", "", ""]])
    assert found is not None
    assert found[0] == found[1] == found[2]
    assert len({found[0], found[3], found[4]}) == 3  # the same name elsewhere is another group
    assert join_groups([["", "x"], ["y", ""]]) is None
