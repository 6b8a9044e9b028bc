"""The calibration error of simulated models whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest

from bcd.evaluation.answers import softmax
from bcd.evaluation.calibration import (
    calibrated_error_level,
    debiased_calibration_error,
    fit_temperature,
    reliability,
)
from bcd.evaluation.metrics import losses
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import Floats, Numbers, easiness

BEYOND = Promise(
    "the calibration error of a calibrated model exceeds its error level (95 % quantile)",
    "statistics.md, calibration.py, report", 0.05, "about",
)  # fmt: skip


def honest(n: int, seed: int = 0) -> tuple[Floats, Numbers]:
    """Logits, and labels drawn with the probabilities that they give."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    return logits, (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("n", [150, 700])
def test_the_error_level_of_calibrated_models(n: int, check: Check) -> None:
    draws = repeated(300)
    measured, level, beyond = [], [], []
    for seed in range(draws):
        logits, labels = honest(n, seed=seed)
        probabilities = softmax(logits)
        chance = calibrated_error_level(probabilities, draws=200)
        measured.append(reliability(probabilities, labels).ece)
        level.append(chance.mean)
        beyond.append(measured[-1] > chance.quantile_95)
    check(BEYOND, f"{n} independent", np.mean(beyond), 0.01, draws)
    assert np.mean(level) == pytest.approx(np.mean(measured), rel=0.05)


def test_the_error_level_is_too_low_for_few_slides_that_differ(check: Check) -> None:
    # Calibrated over all slides, but right more often on some than on others.
    rng, draws, beyond = np.random.default_rng(0), repeated(100), 0
    for _ in range(draws):
        right = rng.random(600) < easiness(rng, 12, [0.9], 0.2)[np.repeat(np.arange(12), 50), 0]
        probabilities = np.tile([0.9, 0.1], (600, 1))
        error = reliability(probabilities, (~right).astype(np.int64)).ece
        beyond += error > calibrated_error_level(probabilities, draws=200).quantile_95
    promise = Promise(
        "on few slides that differ, a calibrated model exceeds its error level far more often",
        "statistics.md, calibration.py", 0.3,
    )  # fmt: skip
    check(promise, "600 on 12 slides, accuracy 0.9, ICC 0.2", beyond / draws, 0.0, draws)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.5])
def test_the_debiased_error_is_closer_to_the_true_one(factor: float, check: Check) -> None:
    logits, labels = honest(200_000, seed=1)
    probabilities = softmax(factor * logits)
    truth = reliability(probabilities, labels).ece
    draws = repeated(200)
    parts = [slice(start, start + 150) for start in range(0, 150 * min(draws, 1300), 150)]
    measured = np.array([reliability(probabilities[p], labels[p]).ece for p in parts])
    debiased = np.array([debiased_calibration_error(probabilities[p], labels[p]) for p in parts])
    promise = Promise(
        "the debiased calibration error lies between 0 and the measured one", "calibration.py", 1.0
    )
    case = f"150 independent, logits multiplied by {factor:g}"
    check(promise, case, np.mean((debiased >= 0) & (debiased <= measured)), 0.0, len(parts))
    if factor == 1.0:
        assert abs(debiased.mean() - truth) < 0.4 * abs(measured.mean() - truth)
        assert (debiased == 0).mean() > 0.4
    else:
        assert debiased.mean() == pytest.approx(truth, abs=0.025)


def test_the_prior_improves_calibration_on_small_val_sets() -> None:
    def mean_loss(temperature: float) -> float:
        return float(losses(softmax(logits[30:] / temperature), labels[30:]).mean())

    alone, together, before = [], [], []
    for seed in range(repeated(60)):
        logits, labels = honest(2030, seed=seed)
        logits = logits * np.exp(0.25 * np.random.default_rng(seed).normal())
        alone.append(mean_loss(fit_temperature(logits[:30], labels[:30], 1e9)))
        together.append(mean_loss(fit_temperature(logits[:30], labels[:30])))
        before.append(mean_loss(1.0))
    assert np.mean(together) < np.mean(alone)
    assert np.mean(together) < np.mean(before)
