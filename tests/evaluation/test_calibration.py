"""Temperature and calibration error, compared with torch, torchmetrics and manual examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_calibration_error

from bcd.evaluation.answers import softmax
from bcd.evaluation.calibration import (
    TEMPERATURES,
    calibrated_error_level,
    debiased_calibration_error,
    fit_temperature,
    reliability,
)
from bcd.reporting.curves import draw_reliability


def honest(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and labels drawn with the probabilities that they give."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    return logits, (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0, 12.0])
def test_a_large_val_recovers_the_temperature(factor: float) -> None:
    logits, labels = honest(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_the_temperature_is_closer_to_1_with_fewer_independent_images() -> None:
    logits, labels = honest(400, seed=1)
    for factor in (0.4, 2.5):
        found = [fit_temperature(logits * factor, labels, n) for n in (1e6, 400, 40, 4, 0)]
        away = np.abs(np.log(found))
        assert (np.diff(away) < 0).all()
        assert found[-1] == pytest.approx(1, abs=1e-3)
        # A val that counts as without end has the likelihood alone decide.
        target = torch.tensor(labels)
        losses = [
            float(torch.nn.functional.cross_entropy(torch.tensor(logits * factor) / t, target))
            for t in np.geomspace(*TEMPERATURES, 400)
        ]
        best = np.geomspace(*TEMPERATURES, 400)[int(np.argmin(losses))]
        assert found[0] == pytest.approx(best, rel=0.02)


def test_the_temperature_stays_within_bounds() -> None:
    rng = np.random.default_rng(0)
    noise, labels = 1000 * rng.normal(size=(100, 4)), rng.integers(0, 4, 100)
    assert 5 < fit_temperature(noise, labels) <= TEMPERATURES[1]
    assert TEMPERATURES[0] <= fit_temperature(np.eye(4)[labels] * 0.01, labels) < 1
    assert fit_temperature(np.zeros((0, 4)), np.zeros(0, int)) == 1.0


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits, labels = honest(900, seed=2)
    probabilities = softmax(2 * logits)
    expected = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=4, n_bins=15
    )
    assert reliability(probabilities, labels).ece == pytest.approx(float(expected), abs=1e-5)


def test_images_are_assigned_to_the_correct_bins() -> None:
    sure = np.array([[1.0, 0.0], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]])
    given = reliability(sure, np.array([0, 1, 1, 0]), bins=10)
    assert given.edges == pytest.approx(np.arange(11) / 10)
    assert given.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 1]
    assert given.accuracy[[5, 8, 9]] == pytest.approx([0.5, 0.0, 1.0])
    assert given.confidence[[5, 8, 9]] == pytest.approx([0.575, 0.9, 1.0])
    assert given.ece == pytest.approx((2 * 0.075 + 0.9 + 0.0) / 4)


def test_reliability_is_drawn_before_and_after_calibration() -> None:
    logits, labels = honest(500)
    before, after = (reliability(softmax(t * logits), labels) for t in (4.0, 1.0))
    figure = draw_reliability(before, after, "test, n = 500")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("before") and f"{before.ece:.4f}" in titles[0]
    assert titles[1].startswith("after") and f"{after.ece:.4f}" in titles[1]
    for axes, data in zip(figure.axes, (before, after), strict=True):
        (points, _) = axes.lines  # the other is the diagonal
        filled = data.counts > 0
        np.testing.assert_array_equal(points.get_xdata(), data.confidence[filled])
        np.testing.assert_array_equal(points.get_ydata(), data.accuracy[filled])


def test_the_level_of_a_calibrated_model_depends_on_the_confidences_alone() -> None:
    sure, unsure = np.tile([1.0, 0.0], (50, 1)), np.tile([0.5, 0.5], (50, 1))
    assert calibrated_error_level(sure) == (0.0, 0.0)
    mean = calibrated_error_level(unsure, draws=4000).mean
    binomial = np.abs(np.random.default_rng(1).binomial(50, 0.5, 100_000) / 50 - 0.5).mean()
    assert mean == pytest.approx(binomial, rel=0.05)
    assert calibrated_error_level(unsure) == calibrated_error_level(unsure[::-1])
    assert debiased_calibration_error(sure, np.zeros(50, int)) == 0.0
    assert debiased_calibration_error(sure, np.ones(50, int)) == pytest.approx(1.0)
