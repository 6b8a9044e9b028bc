"""Unsafe answers, against hand computations."""

from __future__ import annotations

import numpy as np
import pytest

from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.intervals import wilson
from bcd.evaluation.unsafe import (
    called_malignant,
    is_unsafe,
    unsafe_differences,
    unsafe_metrics,
)

# Five malignant images, then three benign ones.
MALIGNANT = np.array([True] * 5 + [False] * 3)
CALLED = np.array([True, False, False, True, False, True, True, False])
REFER = np.array([False, False, True, True, False, False, True, False])


def test_only_wrong_answers_that_are_not_referred_are_unsafe() -> None:
    unsafe = is_unsafe(MALIGNANT, CALLED, REFER)
    assert unsafe.tolist() == [False, True, False, False, True, True, False, False]
    found = unsafe_metrics(MALIGNANT, CALLED, REFER)
    assert found["unsafe_malignant"] == pytest.approx(2 / 5)
    assert found["unsafe_benign"] == pytest.approx(1 / 3)
    assert (found["n_unsafe_malignant"], found["n_unsafe_benign"]) == (2, 1)
    assert (found["n_malignant"], found["n_benign"]) == (5, 3)
    for name in ("unsafe_malignant", "unsafe_benign"):
        low, high = found[f"{name}_ci"]
        assert 0 < low < found[name] < high < 1


def test_without_an_unsafe_answer_there_is_an_upper_limit() -> None:
    malignant = np.repeat([True, False], [145, 55])
    none = np.zeros(200, bool)
    found = unsafe_metrics(malignant, malignant, none)
    assert found["unsafe_malignant"] == found["unsafe_benign"] == 0.0
    assert found["unsafe_malignant_ci"] == pytest.approx(wilson(0, 145))
    assert found["unsafe_benign_ci"] == pytest.approx(wilson(0, 55))
    # Ten groups of malignant images are worth ten images, if each is right or wrong as a whole.
    groups = np.repeat(np.arange(20), 10)
    grouped = unsafe_metrics(np.repeat([True, False], 100), np.repeat([True, False], 100), none,
                             groups)  # fmt: skip
    assert grouped["unsafe_malignant_ci"] == pytest.approx(wilson(0, 10))


def test_a_share_of_no_images_is_none() -> None:
    benign = np.zeros(4, bool)
    found = unsafe_metrics(benign, ~benign, benign)
    assert found["unsafe_malignant"] is None and found["unsafe_malignant_ci"] is None
    assert found["n_unsafe_malignant"] == 0
    assert found["unsafe_benign"] == 1.0
    assert found["unsafe_benign_ci"] == pytest.approx(wilson(4, 4))
    assert "unsafe_benign_ci" not in unsafe_metrics(benign, benign, benign, intervals=False)


def test_few_independent_mistakes_have_about_wilsons_interval() -> None:
    malignant = np.repeat([True, False], [300, 100])
    called = malignant.copy()
    called[::30] = False  # ten of the malignant ones
    found = unsafe_metrics(malignant, called, np.zeros(400, bool))
    assert found["n_unsafe_malignant"] == 10
    assert found["unsafe_malignant_ci"] == pytest.approx(wilson(10, 300), abs=0.005)


def test_the_threshold_decides_what_is_called_malignant() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
    with_threshold = DecisionPolicy(benign=0, malignant_threshold=0.35)
    assert called_malignant(with_threshold, probabilities, 0).tolist() == [True, False, True]
    without = DecisionPolicy(benign=0)
    assert called_malignant(without, probabilities, 0).tolist() == [False, False, True]


def test_differences_are_those_of_the_shares() -> None:
    malignant = np.repeat([True, False], [200, 100])
    a, b = np.zeros(300, bool), np.zeros(300, bool)
    a[:4], b[2:12], b[200:210] = True, True, True
    found = unsafe_differences(malignant, a, b)
    value, low, high = found["unsafe_malignant"]
    assert value == pytest.approx(10 / 200 - 4 / 200)
    # Two images for a alone and eight for b alone: the variance of a paired difference.
    error = np.sqrt((10 / 200 - value**2) / 200)
    assert (low, high) == pytest.approx((value - 1.97 * error, value + 1.97 * error), abs=0.003)
    assert found["unsafe_benign"].value == pytest.approx(0.1)
    assert found["unsafe_benign"].low > 0
    turned = unsafe_differences(malignant, b, a)
    assert turned["unsafe_malignant"].value == pytest.approx(-value)


def test_equally_unsafe_models_may_still_differ() -> None:
    malignant = np.repeat([True, False], [150, 50])
    none = np.zeros(200, bool)
    found = unsafe_differences(malignant, none, none)
    most = wilson(0, 150)[1]
    assert found["unsafe_malignant"] == pytest.approx((0, -most, most))
    groups = np.arange(200) // 10
    grouped = unsafe_differences(malignant, none, none, groups)
    assert grouped["unsafe_malignant"].high == pytest.approx(wilson(0, 15)[1])
    assert list(unsafe_differences(~none, none, none)) == ["unsafe_malignant"]
