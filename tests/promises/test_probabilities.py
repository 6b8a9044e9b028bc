"""Coverage of intervals of metrics that need probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from bcd.evaluation.answers import softmax
from bcd.evaluation.metrics import compute_metrics
from bcd.evaluation.probability_intervals import probability_intervals
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import CLASSES, SHARES, Floats, Numbers, World, sizes

NAMES = ("auroc", "average_precision", "loss", "brier")
MADE = "report, probability_intervals.py"


def sample(rng: np.random.Generator, world: World) -> tuple[Floats, Numbers, Numbers | None]:
    """Overconfident probabilities, labels and groups, which differ in accuracy."""
    owners = None if world.groups is None else np.repeat(np.arange(world.groups), sizes(rng, world))
    n = world.images if owners is None else len(owners)
    skill = 1.5 if owners is None else 1.5 + 0.5 * rng.normal(size=world.groups)[owners]
    labels = rng.choice(len(SHARES), size=n, p=SHARES)
    logits = rng.normal(size=(n, len(SHARES)))
    logits[np.arange(n), labels] += skill
    return softmax(2 * logits), labels, owners


@pytest.mark.parametrize(("groups", "short"), [(None, 0.02), (30, 0.02), (8, 0.03)], ids=str)
def test_intervals_of_probabilities(groups: int | None, short: float, check: Check) -> None:
    rng, draws = np.random.default_rng(4), repeated(100)
    world = World(groups=groups, images=600)
    probabilities, labels, _ = sample(rng, World(groups=groups and 10_000, images=100_000))
    truth = compute_metrics(probabilities, labels, CLASSES, 0)
    held = []
    for _ in range(draws):
        probabilities, labels, owners = sample(rng, world)
        given = probability_intervals(probabilities, labels, CLASSES, owners, draws=300)
        held.append([given[n][0] <= truth[n] <= given[n][1] for n in NAMES])
    promise = Promise(
        "the 95 % intervals of AUROC, average precision, loss and Brier score contain the true "
        "value (worst of the four)", MADE, 0.95,
    )  # fmt: skip
    case = "600 independent" if groups is None else f"600 in {groups} unequal groups"
    check(promise, case, float(np.mean(held, axis=0).min()), short, draws)
