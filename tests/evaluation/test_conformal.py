"""Prediction sets keep their guarantee; selective accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.answers import softmax
from bcd.evaluation.conformal import (
    aurc,
    conformal_threshold,
    prediction_sets,
    risk_coverage,
    selective_accuracy,
    set_metrics,
)
from bcd.reporting.curves import draw_risk_coverage

CLASSES = ("Benign", "Early", "Pre", "Pro")


def drawn(
    rng: np.random.Generator, n: int, skill: float = 1.5
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    labels = rng.choice(4, size=n, p=(0.1, 0.3, 0.35, 0.25))
    logits = rng.normal(size=(n, 4))
    logits[np.arange(n), labels] += skill + 0.5 * labels  # classes are not equally hard
    return softmax(3 * logits), labels


def test_the_threshold_has_the_correction_for_few_images() -> None:
    labels = np.zeros(19, int)
    p = np.linspace(0.05, 0.95, 19)
    probabilities = np.stack([p, 1 - p], axis=1)
    assert conformal_threshold(probabilities, labels, 0.95) == pytest.approx((p[0], 0.05, 19))
    assert conformal_threshold(probabilities, labels, 0.9) == pytest.approx((p[1], 0.1, 19))
    # 18 cannot promise 95 %.
    few = conformal_threshold(probabilities[1:], labels[1:], 0.95)
    assert few == pytest.approx((p[1], 1 / 19, 18))


def test_each_group_has_the_same_weight_regardless_of_its_size() -> None:
    rng = np.random.default_rng(2)
    probabilities, labels = drawn(rng, 300)
    own = probabilities[np.arange(300), labels]
    groups = rng.integers(0, 30, 300)
    found = conformal_threshold(probabilities, labels, 0.9, groups)
    worth = 1 / (31 * np.bincount(groups)[groups])
    assert worth[own < found.value].sum() + 1 / 31 <= 0.1 + 1e-9
    higher = own[own > found.value].min()
    assert worth[own < higher].sum() + 1 / 31 > 0.1
    assert found[1:] == pytest.approx((0.1, 30))
    few = conformal_threshold(probabilities, labels, 0.9, groups % 4)
    assert few == pytest.approx((own.min(), 1 / 5, 4))


def test_a_set_contains_the_probable_classes_and_can_be_empty() -> None:
    sets = prediction_sets(np.array([[0.4, 0.3, 0.3], [0.0, 1.0, 0.0]]), 0.35)
    assert sets.tolist() == [[True, False, False], [False, True, False]]
    assert prediction_sets(np.array([[0.4, 0.3, 0.3]]), 0.5).tolist() == [[False] * 3]


def test_metrics_of_sets() -> None:
    sets = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], bool)
    given = set_metrics(sets, np.array([0, 1, 0]), CLASSES)
    assert given == {
        "coverage": pytest.approx(2 / 3),
        "coverage_by_class": {"Benign": 0.5, "Early": 1.0, "Pre": None, "Pro": None},
        "mean_size": pytest.approx(5 / 3),
        "singleton_share": pytest.approx(1 / 3),
    }


def test_the_most_confident_images_are_kept_first() -> None:
    coverage, risk = risk_coverage(np.array([0.5, 0.9, 0.7, 0.8]), np.array([0, 1, 0, 1], bool))
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert aurc(risk) == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_ties_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(3)
    confidence, correct = rng.integers(0, 4, 50) / 4, rng.random(50) < 0.8
    turned = rng.permutation(50)
    np.testing.assert_allclose(
        risk_coverage(confidence, correct)[1], risk_coverage(confidence[turned], correct[turned])[1]
    )
    assert risk_coverage(np.ones(50), correct)[1] == pytest.approx(np.full(50, (~correct).mean()))


def test_accuracy_on_decided_images() -> None:
    confidence = np.arange(100) / 100
    correct = confidence >= 0.05  # the five least sure are wrong
    given = selective_accuracy(confidence, correct)
    assert given == pytest.approx({"1": 0.95, "0.98": 95 / 98, "0.95": 1.0, "0.9": 1.0})


def test_the_risk_coverage_curve_is_drawn() -> None:
    rng = np.random.default_rng(4)
    curve = risk_coverage(rng.random(300), rng.random(300) < 0.9)
    figure = draw_risk_coverage(*curve, title="costs $5")
    assert figure.axes[0].get_title() == "costs $5"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), curve[1])
