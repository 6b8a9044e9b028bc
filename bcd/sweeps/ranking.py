"""Which configurations differ from the best one, when the best was picked on the same answers.

The best of many equal configurations looks better than the others by chance alone. So a difference
from the best counts only if it is larger than the largest difference between any two of the
configurations in question would be, were they all equal. What that would be is found by turning
round, at random, who was right: every difference between configurations on an image (on a cluster,
where slides or patients are known or images overlap) keeps its size and gets a random sign, the
same for all configurations, so that what configurations have in common stays so. For two
configurations this is McNemar's test, with whole clusters where there are any.

Configurations are left out from the farthest to the nearest, and the test ends at the first that
cannot be told from the best: the nearest has to beat fewer chances than the farthest. This is a
closed test, as an equal configuration is only ever called worse if the largest difference among all
equal ones is beyond its limit.

The limits of the differences are for all configurations at once, by the largest difference among
all of them. Limits that are stepped down would not be: with eight configurations worse than the
best by 3 points all of them held in 70 to 85 per cent of sweeps. Where only the steps tell a
configuration from the best, its interval ends at 0.

Whether training again would change the order is another question, which images cannot answer.
Where there are several runs (seeds, folds), the differences of single runs may stray more than
images explain; by as much every difference is held for less certain. With one run there is
nothing to see of this: the verdict is then one on the trained networks.

In per cent of 1,000 simulated sweeps of 700 images on val, errors largely shared by all
configurations, how often any difference from the best is claimed where there is none (5 are
allowed), and how often a configuration that is better by 3 points is found: it stands first, and
all others are called worse.

| configurations, runs, accuracy                            | claimed | found |
|-----------------------------------------------------|---------|-------|
| 9, 5 runs, 0.95 (found: 0.94 and 0.97)              | 2.7     | 88.1  |
| 2, 5 runs, 0.95 (0.94 and 0.97)                     | 3.3     | 93.5  |
| 20, 5 runs, 0.95                                    | 3.4     |       |
| 9, 5 runs, 0.98 (0.96 and 0.99)                     | 2.9     | 98.8  |
| 9, 5 runs, 0.95, images from 40 slides            | 3.2     |       |
| 9, 5 runs, 0.95, runs stray by 1 point more         | 4.5     | 33.7  |
| 9, 2 runs, 0.95, runs stray by 1 point more         | 7.7     |       |
| 9, 5 runs (0.90 and 0.93)                           |         | 50.1  |

docs/promises.md has fewer sweeps of more cases. Two runs say little of how far runs stray.
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
class Against:
    """A configuration against the best one.

    Attributes:
        difference: Its accuracy minus that of the best, on what both answered.
        low: Lower limit, corrected for the number of configurations.
        high: Upper limit.
        p: That it is as good as the best, corrected likewise.
        n: Answers that both gave.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


def best_of(right: Floats, tie: Floats) -> int:
    """The configuration with the highest share of right answers.

    Args:
        right: (k, n), 1 where a configuration was right, 0 where wrong, NaN where it was not asked.
        tie: (k,), decides between equals; the lowest wins.
    """
    shares = np.nanmean(right, axis=1)
    return int(np.lexsort((tie, -np.round(shares, 12)))[0])


def against_best(
    right: Floats,
    best: int,
    clusters: Numbers,
    runs: Numbers,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Against | None]:
    """Compares every configuration with the best, as the module describes.

    Args:
        right: (k, n), 1 where a configuration was right, 0 where wrong, NaN where it was not asked.
        best: The one to compare with, which was picked from the same answers.
        clusters: (n,), the image or group that an answer is about, from 0 on.
        runs: (n,), the run (seed, fold) that it is of, from 0 on.
        level: Of confidence, between 0 and 1.
        draws: Of random signs.
        seed: Of the draws.

    Returns:
        For each configuration; None for the best, and for those that share no answer with it.
    """
    ratio, freedom = overdispersion(right, clusters, runs)
    wander = np.sqrt(ratio)
    pairs = _Pairs(right, clusters)
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, size=(draws, pairs.count)).astype(np.float64) * 2 - 1
    # The ratio is a guess from few runs, which itself would have come out otherwise.
    guess = ratio * rng.chisquare(freedom, draws) / freedom if ratio > 1 else np.ones(draws)
    stray = wander / np.sqrt(np.maximum(guess, 1))
    others = [k for k in range(len(right)) if k != best]
    of_best = pairs.of(best, others)
    known = [m for m, n in enumerate(of_best.n) if n > 0]
    strength = of_best.strength() / wander
    nearest = sorted(known, key=lambda m: strength[m])
    largest = np.zeros((len(nearest), draws))  # among the best and the configurations up to here
    seen, running = [best], np.zeros(draws)
    for place, m in enumerate(nearest):
        drawn = pairs.of(others[m], seen).drawn(signs)
        running = np.maximum(running, stray * drawn.max(axis=1))
        largest[place] = running
        seen.append(others[m])
    found: list[Against | None] = [None] * len(right)
    p, reach = 0.0, 0.0
    if nearest:
        reach = wander * float(np.quantile(largest[-1], level, method="higher"))
    for place in reversed(range(len(nearest))):
        m = nearest[place]
        beyond = np.count_nonzero(largest[place] >= strength[m] - _ROUNDING)
        p = max(p, (1 + beyond) / (1 + draws))
        found[others[m]] = _against(of_best, m, min(p, 1.0), reach, p < 1 - level)
    return found


def _against(of_best: _Block, m: int, p: float, reach: float, apart: bool) -> Against:
    n = int(of_best.n[m])
    difference, half = float(of_best.sums[m]) / n, reach * float(of_best.spread[m]) / n
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    if apart:  # the steps can tell it from the best where the limits for all at once cannot
        low, high = (low, min(high, 0.0)) if difference < 0 else (max(low, 0.0), high)
    return Against(difference, low, high, p, n)


@dataclass(frozen=True)
class _Block:
    """Differences (m, clusters) in correct answers of m configurations from one; the common n."""

    by_cluster: Floats
    n: Floats

    @property
    def sums(self) -> Floats:
        """Of each configuration, (m,)."""
        total: Floats = self.by_cluster.sum(axis=1)
        return total

    @property
    def spread(self) -> Floats:
        """Standard deviation (m,) of the sums under random signs."""
        return np.asarray(np.sqrt((self.by_cluster**2).sum(axis=1)))

    def strength(self) -> Floats:
        """How far (m,) the sums are from 0, in standard deviations."""
        return _divided(np.abs(self.sums), self.spread)

    def drawn(self, signs: Floats) -> Floats:
        """The same (draws, m) under random signs (draws, clusters)."""
        return _divided(np.abs(signs @ self.by_cluster.T), self.spread)


def _divided(values: Floats, by: Floats) -> Floats:
    return np.divide(values, by, out=np.zeros_like(values), where=by > 0)


class _Pairs:
    """Differences between configurations, summed over clusters.

    Args:
        right: (k, n), with NaN for what was not asked.
        clusters: (n,).
    """

    def __init__(self, right: Floats, clusters: Numbers) -> None:
        self._asked = (~np.isnan(right)).astype(np.float64)
        # Most images are the same to all configurations and take part in no difference.
        apart = np.nanmax(right, axis=0) > np.nanmin(right, axis=0)
        order = np.flatnonzero(apart)[np.argsort(clusters[apart], kind="stable")]
        self._right = right[:, order]
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


def overdispersion(right: Floats, clusters: Numbers, runs: Numbers) -> tuple[float, int]:
    """How much more differences between configurations vary from run to run than images explain.

    Args:
        right: (k, n), with NaN for what was not asked; configurations that were not asked
            everything, and with them what their missing runs would have told, are left out.
        clusters: (n,).
        runs: (n,).

    Returns:
        Ratio of variances, at least 1 (1 where there is a single run or configuration), and the
        degrees of freedom it was found with.
    """
    whole = right[~np.isnan(right).any(axis=1)]
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
    """Numbers (n,) from 0 on for names (n,) of any kind."""
    numbers: Numbers = np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1)
    return numbers
