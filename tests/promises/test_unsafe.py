"""Coverage of the intervals of unsafe answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.unsafe import UNSAFE_SHARES, is_unsafe, unsafe_differences, unsafe_metrics
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import SHARES, Numbers, World, easiness, sizes

MADE = "statistics.md, unsafe.py, report"
COVERED = Promise("the 95 % interval of unsafe answers contains the true share", MADE, 0.95)
PAIRED = Promise(
    "the paired 95 % interval of unsafe answers of two equally safe models contains 0",
    "statistics.md, unsafe.py", 0.95,
)  # fmt: skip
REFERRED = 0.5  # share of the answers that are referred, whether they are wrong or not
# A world's accuracy is that of calling malignant images malignant; benign ones are wrong twice as
# often. By how much coverage is known to fall short of 0.95: of an interval, of a paired one.
SHORT = {
    World(0.96): (0.01, 0.01),
    World(0.99): (0.01, 0.0),
    World(0.96, groups=40): (0.02, 0.0),
    World(0.97, groups=25, uneven=1.2): (0.02, 0.0),
    World(0.96, groups=12): (0.02, 0.0),
    World(0.98, groups=12, icc=0.6, uneven=1.2): (0.02, 0.0),
    World(0.9, groups=6, icc=0.5, uneven=0.0): (0.06, 0.0),
}


class Drawn(NamedTuple):
    """Which images are malignant, and their groups; for each model what is called and referred."""

    malignant: NDArray[np.bool_]
    owners: Numbers | None
    called: list[NDArray[np.bool_]]
    refer: list[NDArray[np.bool_]]


def drawn(rng: np.random.Generator, world: World) -> Drawn:
    """Two equally safe models; difficulty and share of malignant images differ between groups."""
    errors = 1 - world.accuracy
    means, ill = [1 - 2 * errors, world.accuracy], 1 - SHARES[0]
    owners, n, mix = None, world.images, np.full(world.images, ill)
    if world.groups is not None:
        owners = np.repeat(np.arange(world.groups), sizes(rng, world))
        n = len(owners)
        mix = rng.beta(4 * ill, 4 * (1 - ill), world.groups)[owners]
    malignant = rng.random(n) < mix
    called, refer = [], []
    for _ in range(2):
        right = np.tile(means, (n, 1))
        if owners is not None and world.groups is not None:
            right = easiness(rng, world.groups, means, world.icc)[owners]
        wrong = rng.random(n) >= right[np.arange(n), malignant.astype(np.int64)]
        called.append(malignant ^ wrong)
        refer.append(rng.random(n) < REFERRED)
    return Drawn(malignant, owners, called, refer)


@pytest.mark.parametrize("world", SHORT, ids=str)
def test_intervals_of_unsafe_answers(world: World, check: Check) -> None:
    rng, draws = np.random.default_rng(11), repeated(150)
    missed = (1 - world.accuracy) * (1 - REFERRED)
    truths = dict(zip(UNSAFE_SHARES, (missed, 2 * missed), strict=True))
    held: dict[str, list[bool]] = {name: [] for name in UNSAFE_SHARES}
    paired: dict[str, list[bool]] = {name: [] for name in UNSAFE_SHARES}
    for _ in range(draws):
        malignant, owners, called, refer = drawn(rng, world)
        given = unsafe_metrics(malignant, called[0], refer[0], owners, draws=400)
        a, b = (is_unsafe(malignant, c, r) for c, r in zip(called, refer, strict=True))
        differences = unsafe_differences(malignant, a, b, owners, draws=400)
        for name, value in truths.items():
            if name in differences:  # there are such images
                low, high = given[f"{name}_ci"]
                held[name].append(low <= value <= high)
                paired[name].append(differences[name].low <= 0 <= differences[name].high)
    for promise, found, short in zip((COVERED, PAIRED), (held, paired), SHORT[world], strict=True):
        worst = min(float(np.mean(values)) for values in found.values())
        check(promise, str(world), worst, short, draws)
