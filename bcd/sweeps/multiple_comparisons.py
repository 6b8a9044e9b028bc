"""Compares configurations with the best of them, which was selected on the same predictions.

The best of many equal configurations looks better than the others by chance alone. A difference
from the best therefore counts only if it exceeds the largest difference between any two of the
configurations in question that would be expected if all were equal (as Tukey's range does). Its
distribution comes from a sign-flip permutation test: each difference between configurations on an
image (or on a cluster, if slides or patients are known or images overlap) keeps its size and gets a
random sign, the same for all configurations, so that what configurations have in common is kept.
For two configurations this is McNemar's test, with whole clusters if there are any.

Configurations are tested from the farthest to the nearest, and testing ends at the first that is
not distinguishable from the best, so that the nearest is compared with fewer alternatives than the
farthest. This is a closed testing procedure (Marcus, Peritz and Gabriel 1976; step-down with the
maximum statistic, Westfall and Young, "Resampling-based multiple testing", 1993): an equal
configuration is called worse only if the largest difference among all equal ones exceeds its limit.

The confidence limits of the differences hold simultaneously, using the largest difference among all
configurations. Step-down limits would not: with eight configurations worse than the best by 3
points, all of them held in 70 to 85 per cent of sweeps. If only the step-down test distinguishes a
configuration from the best, its interval ends at 0.

Whether training again would change the order is another question, which images cannot answer. If
there are several runs (seeds, folds), differences can vary between runs by more than images
explain; the uncertainty of every difference is then increased by that factor. With one run this
cannot be estimated, and the verdict is about the trained networks only.

Percentage of 1,000 simulated sweeps with 700 images on val and errors largely shared by all
configurations. Claimed: any difference from the best is claimed where there is none (5 are
allowed). Found: a configuration that is better by 3 points is ranked first and all others are
called worse.

| configurations, runs, accuracy                      | claimed | found |
|-----------------------------------------------------|---------|-------|
| 9, 5 runs, 0.95 (found: 0.94 and 0.97)              | 2.7     | 88.1  |
| 2, 5 runs, 0.95 (0.94 and 0.97)                     | 3.3     | 93.5  |
| 20, 5 runs, 0.95                                    | 3.4     |       |
| 9, 5 runs, 0.98 (0.96 and 0.99)                     | 2.9     | 98.8  |
| 9, 5 runs, 0.95, images from 40 slides              | 3.2     |       |
| 9, 5 runs, 0.95, runs vary by 1 point more          | 4.5     | 33.7  |
| 9, 2 runs, 0.95, runs vary by 1 point more          | 7.7     |       |
| 9, 5 runs (0.90 and 0.93)                           |         | 50.1  |

docs/promises.md has fewer sweeps of more cases. Two runs say little about the variation of runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

DRAWS = 2000
_ROUNDING = 1e-9


@dataclass(frozen=True)
class VersusBest:
    """Comparison of a configuration with the best one.

    Attributes:
        difference: Its accuracy minus that of the best, on images that both predicted.
        low: Lower limit, adjusted for the number of configurations.
        high: Upper limit.
        p_value: Of the hypothesis that both are equally accurate, adjusted likewise.
        n: Number of predictions in common.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def find_best(correct: Floats, tie: Floats) -> int:
    """The configuration with the highest share of correct predictions.

    Args:
        correct: (k, n), 1 if a configuration is correct, 0 if not, NaN if it has no prediction.
        tie: (k,), breaks ties; the lowest wins.
    """
    shares = np.nanmean(correct, axis=1)
    return int(np.lexsort((tie, -np.round(shares, 12)))[0])


def compare_with_best(
    correct: Floats,
    best: int,
    clusters: Numbers,
    runs: Numbers,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[VersusBest | None]:
    """Compares every configuration with the best, as described at the top of the module.

    Args:
        correct: (k, n), 1 if a configuration is correct, 0 if not, NaN if it has no prediction.
        best: The configuration to compare with, which was selected on the same predictions.
        clusters: (n,), number of the image or group of each prediction.
        runs: (n,), number of the run (seed, fold) of each prediction.
        level: Confidence level, between 0 and 1.
        draws: Number of random sign patterns.
        seed: Of the random signs.

    Returns:
        For each configuration; None for the best, and for those without predictions in common with
        it.
    """
    ratio, freedom = overdispersion(correct, clusters, runs)
    inflation = np.sqrt(ratio)
    pairs = _Pairs(correct, clusters)
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, size=(draws, pairs.count)).astype(np.float64) * 2 - 1
    # The ratio is estimated from few runs, so its uncertainty is included.
    sampled_ratio = ratio * rng.chisquare(freedom, draws) / freedom if ratio > 1 else np.ones(draws)
    scale = inflation / np.sqrt(np.maximum(sampled_ratio, 1))
    others = [k for k in range(len(correct)) if k != best]
    of_best = pairs.of(best, others)
    known = [m for m, n in enumerate(of_best.n) if n > 0]
    strength = of_best.strength() / inflation
    nearest = sorted(known, key=lambda m: strength[m])
    largest = np.zeros((len(nearest), draws))  # among the best and the configurations so far
    compared, running = [best], np.zeros(draws)
    for place, m in enumerate(nearest):
        drawn = pairs.of(others[m], compared).drawn(signs)
        running = np.maximum(running, scale * drawn.max(axis=1))
        largest[place] = running
        compared.append(others[m])
    found: list[VersusBest | None] = [None] * len(correct)
    p, reach = 0.0, 0.0
    if nearest:
        reach = inflation * float(np.quantile(largest[-1], level, method="higher"))
    for place in reversed(range(len(nearest))):
        m = nearest[place]
        beyond = np.count_nonzero(largest[place] >= strength[m] - _ROUNDING)
        p = max(p, (1 + beyond) / (1 + draws))
        found[others[m]] = _versus_best(of_best, m, min(p, 1.0), reach, p < 1 - level)
    return found


def _versus_best(
    of_best: _Block, m: int, p_value: float, reach: float, distinct: bool
) -> VersusBest:
    n = int(of_best.n[m])
    difference, half = float(of_best.sums[m]) / n, reach * float(of_best.spread[m]) / n
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    if distinct:  # the step-down test can distinguish it where the simultaneous limits cannot
        low, high = (low, min(high, 0.0)) if difference < 0 else (max(low, 0.0), high)
    return VersusBest(difference, low, high, p_value, n)


@dataclass(frozen=True)
class _Block:
    """Differences (m, clusters) in correct predictions of m configurations from one, and n."""

    by_cluster: Floats
    n: Floats

    @property
    def sums(self) -> Floats:
        """Sum over clusters, (m,)."""
        total: Floats = self.by_cluster.sum(axis=1)
        return total

    @property
    def spread(self) -> Floats:
        """Standard deviation (m,) of the sums under random signs."""
        return np.asarray(np.sqrt((self.by_cluster**2).sum(axis=1)))

    def strength(self) -> Floats:
        """Absolute sums (m,) in standard deviations."""
        return _divided(np.abs(self.sums), self.spread)

    def drawn(self, signs: Floats) -> Floats:
        """Strength (draws, m) under random signs (draws, clusters)."""
        return _divided(np.abs(signs @ self.by_cluster.T), self.spread)


def _divided(values: Floats, by: Floats) -> Floats:
    return np.divide(values, by, out=np.zeros_like(values), where=by > 0)


class _Pairs:
    """Differences between configurations, summed over clusters.

    Args:
        correct: (k, n), NaN without a prediction.
        clusters: (n,).
    """

    def __init__(self, correct: Floats, clusters: Numbers) -> None:
        self._asked = (~np.isnan(correct)).astype(np.float64)
        # Images on which all configurations agree contribute to no difference.
        differing = np.nanmax(correct, axis=0) > np.nanmin(correct, axis=0)
        order = np.flatnonzero(differing)[np.argsort(clusters[differing], kind="stable")]
        self._right = correct[:, order]
        ordered = clusters[order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self.count = len(self._starts)

    def of(self, one: int, others: list[int]) -> _Block:
        """Differences of other configurations from one."""
        n = self._asked[others] @ self._asked[one]
        difference = np.nan_to_num(self._right[others] - self._right[one], nan=0.0)
        if not self.count:
            return _Block(np.zeros((len(others), 0)), n)
        return _Block(np.add.reduceat(difference, self._starts, axis=1), n)


def overdispersion(correct: Floats, clusters: Numbers, runs: Numbers) -> tuple[float, int]:
    """Ratio of the variation of differences between runs to what images alone explain.

    Args:
        correct: (k, n), NaN without a prediction; configurations with missing predictions are left
            out.
        clusters: (n,).
        runs: (n,).

    Returns:
        Ratio of variances, at least 1 (1 for a single run or configuration), and its degrees of
        freedom.
    """
    whole = correct[~np.isnan(correct).any(axis=1)]
    count = len(np.unique(runs))
    if len(whole) < 2 or count < 2:
        return 1.0, 0
    sums, within = np.zeros((count, len(whole))), 0.0
    sizes = np.zeros(count)
    for number, run in enumerate(np.unique(runs)):
        own = runs == run
        block = whole[:, own]
        sums[number], sizes[number] = block.sum(axis=1), own.sum()
        places = np.unique(clusters[own], return_inverse=True)[1]
        by_cluster = np.zeros((places.max() + 1, len(whole)))
        np.add.at(by_cluster, places, block.T)
        within += _over_pairs(by_cluster)
    expected = sizes[:, None] / sizes.sum() * sums.sum(axis=0)
    between = _over_pairs(sums - expected) * count / (count - 1)
    freedom = (count - 1) * (len(whole) - 1)
    return (max(between / within, 1.0) if within > 0 else 1.0), freedom


def _over_pairs(values: Floats) -> float:
    """Sum over rows and over pairs of columns of the squared difference between the two."""
    k = values.shape[1]
    return float((k * (values**2).sum(axis=1) - values.sum(axis=1) ** 2).sum())


def numbered(names: Any) -> Numbers:
    """Numbers (n,) from 0 for names (n,) of any type."""
    numbers: Numbers = np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1)
    return numbers
