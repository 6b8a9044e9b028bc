"""Temperature and calibration error, against torch, torchmetrics and cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_calibration_error

from bcd.evaluation.calibration import (
    TEMPERATURES,
    draw_reliability,
    fit_temperature,
    reliability,
)
from bcd.evaluation.collect import softmax


def honest(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and labels drawn with just the probabilities they give."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    return logits, (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0, 12.0])
def test_the_temperature_undoes_a_factor_on_the_logits(factor: float) -> None:
    logits, labels = honest(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_no_other_temperature_is_better_and_1_never_is() -> None:
    logits, labels = honest(150, seed=1)
    target = torch.tensor(labels)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(torch.tensor(logits * 2.5) / t, target))

    best = fit_temperature(logits * 2.5, labels)
    assert loss(best) <= min(map(loss, np.geomspace(*TEMPERATURES, 300))) + 1e-9
    assert loss(best) < loss(1.0)


def test_the_temperature_stays_within_bounds() -> None:
    rng = np.random.default_rng(0)
    noise, labels = 1000 * rng.normal(size=(100, 4)), rng.integers(0, 4, 100)
    assert fit_temperature(noise, labels) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    unsure = np.eye(4)[labels] * 0.01
    unsure[0] = np.roll(unsure[0], 1)
    assert fit_temperature(unsure, labels) == pytest.approx(TEMPERATURES[0], rel=1e-3)


def test_a_val_without_mistakes_is_no_reason_to_be_surer() -> None:
    labels = np.arange(40) % 4
    assert fit_temperature(np.eye(4)[labels] * 3.0, labels) == 1.0
    assert fit_temperature(np.eye(4)[labels] * 1e4, labels) == 1.0
    assert fit_temperature(np.zeros((0, 4)), np.zeros(0, int)) == 1.0


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits, labels = honest(900, seed=2)
    probabilities = softmax(2 * logits)
    expected = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=4, n_bins=15
    )
    assert reliability(probabilities, labels).ece == pytest.approx(float(expected), abs=1e-5)


def test_bins_hold_what_belongs_there() -> None:
    sure = np.array([[1.0, 0.0], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]])
    given = reliability(sure, np.array([0, 1, 1, 0]), bins=10)
    assert given.edges == pytest.approx(np.arange(11) / 10)
    assert given.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 1]
    assert given.accuracy[[5, 8, 9]] == pytest.approx([0.5, 0.0, 1.0])
    assert given.confidence[[5, 8, 9]] == pytest.approx([0.575, 0.9, 1.0])
    assert given.ece == pytest.approx((2 * 0.075 + 0.9 + 0.0) / 4)


def test_calibration_is_drawn_before_and_after() -> None:
    logits, labels = honest(500)
    before, after = (reliability(softmax(t * logits), labels) for t in (4.0, 1.0))
    figure = draw_reliability(before, after)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("before") and f"{before.ece:.4f}" in titles[0]
    assert titles[1].startswith("after") and f"{after.ece:.4f}" in titles[1]
    assert [len(axes.patches) for axes in figure.axes] == [
        int((r.counts > 0).sum()) for r in (before, after)
    ]
