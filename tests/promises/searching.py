"""Searches for the simulated worlds in which the interval of accuracy has the lowest coverage."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from bcd.evaluation.bootstrap import Clusters, bootstrap, degrees_of_freedom
from bcd.evaluation.intervals import limits
from tests.promises.worlds import Floats, World, easiness, sizes

GROUPS = (4, 6, 8, 12, 19, 40, 200)
ICC = (0.0, 0.05, 0.2, 0.5)
ACCURACIES = (0.8, 0.92, 0.97, 0.99)
UNEVEN = (0.0, 1.2)
IMAGES = (200, 736, 2000)


class Found(NamedTuple):
    """Coverage and mean width of the interval; coverage of the bootstrap percentiles."""

    world: World
    covered: float
    width: float
    percentiles: float


def covered(world: World, draws: int, seed: int = 0) -> Found:
    """Simulates `draws` data sets of a world with groups."""
    rng, truth = np.random.default_rng(seed), world.accuracy
    held, widths, plain = [], [], []
    assert world.groups is not None
    for _ in range(draws):
        counts = sizes(rng, world)
        right = rng.binomial(counts, easiness(rng, world.groups, [truth], world.icc)[:, 0])
        codes = np.stack([right, counts - right], axis=1).astype(np.float64)
        rows, times = np.unique(codes, axis=0, return_counts=True)
        clusters, every = Clusters(times.astype(np.float64), rows), rows.sum(axis=1)

        def figures(
            weights: Floats, hits: Floats = rows[:, 0], every: Floats = every
        ) -> dict[str, Floats]:
            return {"accuracy": (weights @ hits) / (weights @ every)}

        drawn = bootstrap(clusters, figures, {"accuracy": every}, 400, 0)["accuracy"]
        freedom = degrees_of_freedom(clusters, figures)["accuracy"]
        value = figures(clusters.times[None])["accuracy"][0]
        low, high = (float(x) for x in limits(clusters, value, drawn, every, freedom))
        held.append(low <= truth <= high)
        widths.append(high - low)
        a, b = np.quantile(drawn, (0.025, 0.975))
        plain.append(a <= truth <= b)
    return Found(world, *(float(np.mean(x)) for x in (held, widths, plain)))


def search(draws: int) -> str:
    """A table in Markdown: mean and worst coverage by groups and ICC, and the worst worlds."""
    lines = [
        f"Accuracies {ACCURACIES}, equal and very unequal groups, {IMAGES} images; {draws} "
        "data sets a case.\n",
        "| groups | ICC | mean coverage | worst | mean width | mean of percentiles | worst |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    every: list[Found] = []
    for groups, icc in product(GROUPS, ICC):
        found = [
            covered(World(accuracy, groups, icc, uneven, n), draws)
            for accuracy, uneven, n in product(ACCURACIES, UNEVEN, IMAGES)
            if n > 2 * groups
        ]
        mean, width, plain = (np.mean([x[k] for x in found]) for k in (1, 2, 3))
        worst = min(x.covered for x in found), min(x.percentiles for x in found)
        lines.append(
            f"| {groups} | {icc:g} | {mean:.3f} | {worst[0]:.3f} | {width:.3f} | {plain:.3f} "
            f"| {worst[1]:.3f} |"
        )
        every += found
    lines.append("\nWorst:\n")
    for x in sorted(every, key=lambda x: x.covered)[:8]:
        again = covered(
            x.world, 4 * draws, seed=1
        )  # the worst of many is partly the worst by chance
        lines.append(f"- {x.covered:.3f}, again {again.covered:.3f}: {x.world}")
    return "\n".join(lines)
