"""Metrics of the probability of malignancy, against a computation by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bcd.evaluation.intervals import wilson
from bcd.evaluation.malignancy import malignancy_metrics, share_interval

P = np.array([0.1, 0.4, 0.4, 0.8, 0.9])
TRUTH = np.array([False, False, True, False, True])


def test_ranking_and_calibration_equal_a_computation_by_hand() -> None:
    found = malignancy_metrics(P, TRUTH)
    # Malignant 0.4 ranks above 0.1 and level with 0.4; malignant 0.9 ranks above all three.
    assert found["auroc"] == pytest.approx((1 + 0.5 + 0 + 3) / 6)
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.6, 0.4, 0.2, 0.9]).mean())
    assert found["brier"] == pytest.approx(2 * np.mean([0.1**2, 0.4**2, 0.6**2, 0.8**2, 0.1**2]))
    assert found["auroc_note"] == ""
    for name in ("auroc", "loss", "brier"):
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high


@pytest.mark.parametrize("malignant", [False, True])
def test_images_of_one_kind_have_no_auroc_and_say_why(malignant: bool) -> None:
    found = malignancy_metrics(P, np.full(5, malignant))
    assert found["auroc"] is None
    assert found["auroc_ci"] is None
    assert found["auroc_note"] == f"all images are {'malignant' if malignant else 'benign'}"
    assert math.isfinite(found["loss"])
    assert found["loss_ci"][0] < found["loss"] < found["loss_ci"][1]


def test_intervals_are_over_groups() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.random(20) < 0.5, 10)
    p = np.clip(np.repeat(rng.normal(0.5, 0.2, 20), 10) + 0.1 * truth, 0.01, 0.99)
    groups = [f"slide{i // 10}" for i in range(200)]
    single, grouped = malignancy_metrics(p, truth), malignancy_metrics(p, truth, groups)
    for name in ("auroc", "loss", "brier"):
        assert single[name] == grouped[name]
        narrow, wide = (np.diff(found[f"{name}_ci"])[0] for found in (single, grouped))
        assert wide > 1.5 * narrow


def test_a_share_of_none_has_wilsons_upper_limit() -> None:
    none = np.zeros(40, bool)
    assert share_interval(none) == pytest.approx(wilson(0, 40))
    assert share_interval(none, [i // 4 for i in range(40)]) == pytest.approx(wilson(0, 10))
