"""One of two equally accurate models is rarely called better."""

from __future__ import annotations

import numpy as np
import pytest

from bcd.evaluation.paired_tests import paired_interval, paired_p_value, verdict
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import Floats, Numbers, World, easiness, sizes

K = 4
FALSE = Promise(
    "one of two equally accurate models is called better", "README, paired_tests.py",
    0.05, "at most",
)  # fmt: skip
P = Promise("the p-value of two equal models is below 0.05", "paired_tests.py", 0.05, "at most")
ZERO = Promise(
    "the paired 95 % interval of accuracy contains the difference", "README, paired_tests.py", 0.95
)
F1 = Promise(
    "the paired 95 % interval of macro F1 contains the difference", "paired_tests.py", 0.95
)
# The worlds, ICC of the second model (None: as the first), and by how much each promise is missed:
# false claims, p-values, intervals of accuracy and macro F1.
CASES = [
    (World(0.92), None, (0.0, 0.0, 0.0, 0.0)),
    (World(0.99, images=300), None, (0.0, 0.0, 0.0, 0.0)),
    (World(0.9, groups=19), None, (0.0, 0.0, 0.02, 0.02)),
    (World(0.9, groups=8, uneven=1.2), None, (0.0, 0.0, 0.03, 0.03)),
    (World(0.9, groups=6, icc=0.5, uneven=0.0), None, (0.0, 0.0, 0.03, 0.03)),
    (World(0.9, groups=4), None, (0.0, 0.0, 0.03, 0.03)),
    (World(0.9, groups=8, icc=0.02), 0.4, (0.12, 0.12, 0.15, 0.15)),
]


def right_of(
    rng: np.random.Generator, world: World, owners: Numbers | None, shared: Floats, icc: float
) -> Floats:
    """Probability that one model is correct on each image; half of its variance is shared."""
    if owners is None or world.groups is None:
        return np.full(len(shared), world.accuracy)
    return np.asarray(easiness(rng, world.groups, [world.accuracy], icc)[owners, 0])


def compared(
    rng: np.random.Generator, world: World, other: float | None
) -> tuple[bool, bool, bool, bool]:
    """For two equal models: whether one is called better, p < 0.05, and the intervals contain 0."""
    owners = None if world.groups is None else np.repeat(np.arange(world.groups), sizes(rng, world))
    n = world.images if owners is None else len(owners)
    labels, luck = np.arange(n) % K, rng.random(n)
    predicted = []
    for icc in (world.icc, world.icc if other is None else other):
        # Four in ten images are as hard for one model as for the other.
        own = np.where(rng.random(n) < 0.4, luck, rng.random(n))
        right = own < right_of(rng, world, owners, luck, icc)
        predicted.append(np.where(right, labels, (labels + rng.integers(1, K, n)) % K))
    found = paired_interval(labels, predicted[0], predicted[1], K, owners, draws=300)
    p = paired_p_value(predicted[1] == labels, predicted[0] == labels, owners, draws=999)
    claimed = not verdict(found["accuracy"], p).startswith("not distinguishable")
    held = [found[name].low <= 0 <= found[name].high for name in ("accuracy", "f1")]
    return claimed, p < 0.05, held[0], held[1]


@pytest.mark.parametrize(("world", "other", "short"), CASES, ids=str)
def test_equal_models(
    world: World, other: float | None, short: tuple[float, ...], check: Check
) -> None:
    rng, draws = np.random.default_rng(0), repeated(200)
    rates = np.mean([compared(rng, world, other) for _ in range(draws)], axis=0)
    case = str(world) if other is None else f"{world}; the other model's ICC {other:g}"
    for promise, rate, missed in zip((FALSE, P, ZERO, F1), rates, short, strict=True):
        check(promise, case, float(rate), missed, draws)


def test_ignoring_groups_would_call_equal_models_different() -> None:
    rng, world, wrong = np.random.default_rng(0), World(0.9, groups=19), 0
    for _ in range(60):
        owners = np.repeat(np.arange(19), sizes(rng, world))
        labels = owners % K
        a, b = (
            rng.random(len(owners)) < easiness(rng, 19, [0.9], world.icc)[owners, 0] for _ in "ab"
        )
        predicted = [np.where(right, labels, (labels + 1) % K) for right in (a, b)]
        interval = paired_interval(labels, predicted[0], predicted[1], K, None, draws=300)[
            "accuracy"
        ]
        wrong += not verdict(interval, paired_p_value(b, a)).startswith("not distinguishable")
    assert wrong > 15
