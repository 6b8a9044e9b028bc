"""Prediction sets contain the true class as often as guaranteed."""

from __future__ import annotations

import numpy as np
import pytest

from bcd.evaluation.answers import softmax
from bcd.evaluation.conformal import conformal_threshold, prediction_sets
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import SHARES, Floats, Numbers

MADE = "statistics.md, conformal.py, run's output"


def drawn(rng: np.random.Generator, n: int, skill: Floats | float = 0.5) -> tuple[Floats, Numbers]:
    labels = rng.choice(len(SHARES), size=n, p=SHARES)
    logits = rng.normal(size=(n, len(SHARES)))
    logits[np.arange(n), labels] += skill + 0.5 * labels  # classes are not equally hard
    return softmax(3 * logits), labels


@pytest.mark.parametrize("n", [19, 60, 333])
@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_sets_of_independent_images(n: int, coverage: float, check: Check) -> None:
    rng, draws = np.random.default_rng(0), repeated(600)
    held = []
    for _ in range(draws):
        threshold = conformal_threshold(*drawn(rng, n), coverage).value
        probabilities, labels = drawn(rng, 200)
        sets = prediction_sets(probabilities, threshold)
        held.append(sets[np.arange(200), labels].mean())
    text = f"sets hold the true class in {coverage:.0%}, on average over vals"
    check(Promise(text, MADE, coverage), f"{n} independent in val", np.mean(held), 0.0, draws)
    # And are no larger than need be.
    assert np.mean(held) <= coverage + 1 / (n + 1) + 3 * np.std(held) / np.sqrt(draws)


@pytest.mark.parametrize(("groups", "promised"), [(4, 0.8), (25, 0.95), (60, 0.95)])
@pytest.mark.parametrize("large", ["hard", "easy"])
def test_sets_of_new_groups(groups: int, promised: float, large: str, check: Check) -> None:
    rng, draws = np.random.default_rng(1), repeated(300)
    held = []
    for _ in range(draws):
        skill = 1.2 * rng.normal(size=groups)
        counts = np.where((skill < 0) == (large == "hard"), 40, 3)
        owners = np.repeat(np.arange(groups), counts)
        found = conformal_threshold(
            *drawn(rng, len(owners), 0.5 + skill[owners]), 0.95, owners.tolist()
        )
        assert 1 - found.share == pytest.approx(promised)
        # An image each of 300 new groups.
        probabilities, labels = drawn(rng, 300, 0.5 + 1.2 * rng.normal(size=300))
        held.append(prediction_sets(probabilities, found.value)[np.arange(300), labels].mean())
    text = f"sets hold the true class of an image of a new group in {promised:.0%}"
    case = f"{groups} groups in val, the {large} ones large"
    check(Promise(text, MADE, promised), case, np.mean(held), 0.0, draws)
