"""Compares windows of answers with what is expected if nothing has changed.

Two tests share the probability of a false alarm. The number of images referred is compared with
the predictive limits of Thatcher ("Relationships between Bayesian and confidence limits for
predictions", 1964), which cover a future count with at least the nominal probability whatever the
true share is, given the count among the n images of the reference. Out-of-distribution scores are
compared with those of the reference by the two-sample test of Kolmogorov and Smirnov.

Both assume independent images. Those of a case are of one slide or patient, and alike, so that a
window has one image of each case (`windows`). No correlation within cases has to be estimated, and
cases may have any sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERRAL, DISTANCES = "referral", "distances"
_TESTS = 2  # which share the probability of a false alarm

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Reference:
    """What is expected of new answers.

    Attributes:
        referred: Share of images referred, from 0 to 1; None if it is not known.
        n: Independent images that this share was measured on, or what groups of them are worth; 0
            if it is not known.
        scores: Out-of-distribution scores, or evenly spaced quantiles of them; empty if unknown.
        scores_n: The same of the scores.
        source: Of the share: `val`, or `baseline` for the first answers of a site.
        scores_source: The same of the scores.
    """

    referred: float | None
    n: float
    scores: tuple[float, ...]
    scores_n: float
    source: str
    scores_source: str


@dataclass(frozen=True)
class Comparison:
    """A window compared with the reference.

    Attributes:
        band: Lowest and highest share referred that is no alarm; None if the share of the reference
            is unknown.
        p_referral: Probability of a count at least as extreme if nothing has changed; None as well.
        p_distances: The same of the distance between the distributions of scores; None if unknown.
        alarms: Those of `REFERRAL` and `DISTANCES` that the window sets off.
    """

    band: tuple[float, float] | None
    p_referral: float | None
    p_distances: float | None
    alarms: tuple[str, ...]


def compare(
    reference: Reference,
    referred: Sequence[bool],
    scores: Sequence[float],
    false_alarms: float,
) -> Comparison:
    """Compares a window of n independent images with the reference.

    Args:
        reference: What is expected.
        referred: Whether each image was referred, (n,).
        scores: Finite out-of-distribution scores of the images that have one, (at most n,).
        false_alarms: Highest share of windows with an alarm if nothing has changed.
    """
    level, n = false_alarms / _TESTS, len(referred)
    band, p_referral = None, None
    if (share := reference.referred) is not None:
        band = predictive_band(share, reference.n, n, level)
        p_referral = referral_p(share, reference.n, sum(referred), n)
    p_distances = distances_p(reference, scores) if reference.scores and scores else None
    found = ((REFERRAL, p_referral), (DISTANCES, p_distances))
    alarms = tuple(name for name, p in found if p is not None and p <= level)
    return Comparison(band, p_referral, p_distances, alarms)


def predictive_band(share: float, n: float, new: int, level: float) -> tuple[float, float]:
    """Shares of `new` images that are no alarm at a two-sided level, if n had this share."""
    lower, upper = _tails(share, n, new)
    counts = np.arange(new + 1)
    inside = counts[(2 * lower > level) & (2 * upper > level)]
    return float(inside.min()) / new, float(inside.max()) / new


def referral_p(share: float, n: float, count: int, new: int) -> float:
    """Two-sided p-value of a count among `new` images, if n had this share."""
    lower, upper = _tails(share, n, new)
    return float(min(1.0, 2 * min(lower[count], upper[count])))


def _tails(share: float, n: float, new: int) -> tuple[Floats, Floats]:
    """Probability of at most, and of at least, each count from 0 to `new`; (new + 1,) each."""
    from scipy.stats import betabinom  # takes a second

    found, counts = share * n, np.arange(new + 1)
    lower, upper = np.ones(new + 1), np.ones(new + 1)
    if found > 0:
        lower = np.cumsum(betabinom.pmf(counts, new, found, n - found + 1))
    if found < n:
        upper = np.cumsum(betabinom.pmf(counts, new, found + 1, n - found)[::-1])[::-1]
    return lower, upper


def distances_p(reference: Reference, scores: Sequence[float]) -> float:
    """p-value of the largest difference between the distributions of scores.

    Args:
        reference: Its scores are not empty.
        scores: Of the window, finite, (n,).
    """
    from scipy.stats import kstwo  # takes a second

    expected, own = np.sort(np.asarray(reference.scores)), np.sort(np.asarray(scores))
    pooled = np.concatenate([expected, own])
    parts = (np.searchsorted(one, pooled, "right") / len(one) for one in (expected, own))
    largest = float(np.abs(np.subtract(*parts)).max())
    both = reference.scores_n * len(own) / (reference.scores_n + len(own))
    return float(kstwo.sf(largest, max(round(both), 1)))
