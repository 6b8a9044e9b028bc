"""The share of own images that the out-of-distribution detector refers on groups not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.ood import fit_detector
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import World, sizes

SHARE = 0.02
REFERRED = Promise(
    "2 % of own images are out of distribution, on average, on groups not seen",
    "statistics.md, ood.py, report", SHARE, "at most",
)  # fmt: skip
LENGTH, INSIDE = 64, 8  # of a descriptor, and of the subspace that holds what varies most
# Groups differ in a direction of their own and in noise; the ICC is the share of the variance
# beside the subspace that is between groups. By how much the share is known to exceed 2 %.
ABOVE = {
    World(images=700): 0.0,
    World(images=1700, groups=40, icc=0.1): 0.005,
    World(images=1700, groups=40, icc=0.3): 0.01,
    World(images=1700, groups=20, icc=0.3): 0.02,
    World(images=1700, groups=40, icc=0.3, uneven=1.2): 0.02,
    World(images=700, groups=8, icc=0.3): 0.05,
}


def described(
    rng: np.random.Generator, basis: NDArray[Any], world: World
) -> tuple[NDArray[np.float32], list[str] | None]:
    """Descriptors of own images, and their groups if there are any."""
    n, groups = world.images, None
    shift, amount = np.zeros((n, LENGTH)), np.ones(n)
    if world.groups is not None:
        counts = sizes(rng, world)
        n = int(counts.sum())
        shift = np.repeat(rng.normal(size=(world.groups, LENGTH)) * world.icc**0.5, counts, axis=0)
        amount = np.repeat(rng.lognormal(0, world.icc / 2, world.groups), counts)
        groups = [str(k) for k in np.repeat(np.arange(world.groups), counts)]
    noise = rng.normal(size=(n, LENGTH)) * amount[:, None] * (1 - world.icc * bool(groups)) ** 0.5
    return np.asarray(rng.normal(0, 6, (n, INSIDE)) @ basis + shift + noise, np.float32), groups


@pytest.mark.parametrize("world", ABOVE, ids=str)
def test_own_images_of_new_groups(world: World, check: Check) -> None:
    rng, draws, beyond = np.random.default_rng(3), repeated(12), []
    for _ in range(draws):
        basis = np.linalg.qr(rng.normal(size=(LENGTH, INSIDE)))[0].T
        found = fit_detector(*given(described(rng, basis, world)))
        new, _ = described(rng, basis, World(images=1700, groups=40, icc=world.icc))
        if world.groups is None:
            new, _ = described(rng, basis, World(images=1700))
        assert found is not None
        beyond.append(float((found.distance(new) > found.limit).mean()))
    case = str(world).replace(f", accuracy {world.accuracy:g}", "")
    check(REFERRED, case, np.mean(beyond), ABOVE[world], draws * 40)  # new groups
    assert np.mean(beyond) > SHARE / 4  # nothing is won by a limit that nothing exceeds


def given(
    own: tuple[NDArray[np.float32], list[str] | None],
) -> tuple[NDArray[np.float32], float, list[str] | None]:
    """Arguments of `fit_detector`."""
    return own[0], SHARE, own[1]
