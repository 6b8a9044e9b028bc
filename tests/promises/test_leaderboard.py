"""Error rates of verdicts on configurations whose true accuracy is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from bcd.sweeps.multiple_comparisons import VersusBest, compare_with_best, find_best
from tests.promises.stating import Check, Promise, repeated
from tests.promises.sweeps import World, simulate

SWEEPS = 120
CLAIMED = Promise(
    "any of several equal configurations is called worse than the best",
    "README, sweeps.md, multiple_comparisons.py",
    0.05,
    "at most",
)
FOUND = Promise(
    "a configuration better by 3 points is ranked first and all others are called worse",
    "multiple_comparisons.py", 0.8,
)  # fmt: skip
HELD = Promise(
    "the 95 % intervals of all differences from the best contain the true values",
    "sweeps.md, leaderboard", 0.95,
)  # fmt: skip
BEST = 0.03


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limits threads, which only slow down such small matrices."""
    with threadpool_limits(1):
        yield


def boards(world: World, draws: int) -> Iterator[tuple[int, list[VersusBest | None]]]:
    """The best configuration of each simulated sweep, and the comparisons with it."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        right, clusters, runs = simulate(world, rng)
        best = find_best(right, np.zeros(len(right)))
        yield best, compare_with_best(right, best, clusters, runs, draws=1000)


def worse(found: list[VersusBest | None]) -> list[bool]:
    return [a is not None and a.p_value < 0.05 for a in found]


@pytest.mark.parametrize(
    ("world", "missed"),
    [
        (World(), 0.0),
        (World(configurations=2), 0.0),
        (World(configurations=20, own=0.05), 0.0),
        (World(accuracy=0.98), 0.0),
        (World(runs=1, images=172), 0.0),
        (World(wander=0.1), 0.0),
        (World(configurations=4, wander=0.2), 0.03),
        (World(runs=2, images=350, wander=0.1), 0.05),
        (World(slide=0.3), 0.0),
        (World(slide=0.5, slides=8), 0.0),
    ],
    ids=str,
)
def test_equal_configurations_are_rarely_called_worse(
    world: World, missed: float, check: Check
) -> None:
    draws = repeated(SWEEPS)
    claimed = [any(worse(found)) for _, found in boards(world, draws)]
    check(CLAIMED, str(world), np.mean(claimed), missed, draws)


@pytest.mark.parametrize(
    "world",
    [
        World(accuracy=0.94, better=BEST),
        World(accuracy=0.94, better=BEST, configurations=2),
        World(accuracy=0.96, better=BEST),
        World(accuracy=0.90, better=BEST, own=0.03),
    ],
    ids=str,
)
def test_a_configuration_better_by_3_points_on_700_images(world: World, check: Check) -> None:
    assert world.runs * world.images == 700
    draws, first, held = repeated(SWEEPS), [], []
    for best, found in boards(world, draws):
        first.append(best == 0 and sum(worse(found)) == world.configurations - 1)
        truth = [BEST if k == 0 else 0.0 for k in range(world.configurations)]
        gaps = [(a, truth[k] - truth[best]) for k, a in enumerate(found) if a is not None]
        held.append(all(a.low <= gap <= a.high for a, gap in gaps))
    check(FOUND, str(world), np.mean(first), 0.0, draws)
    check(HELD, str(world), np.mean(held), 0.0, draws)
