"""Compares windows of answers with what is expected if nothing has changed.

Two tests share the probability of a false alarm. The number of images referred is compared with
the predictive limits of Thatcher ("Relationships between Bayesian and confidence limits for
predictions", 1964), which cover a future count with at least the nominal probability whatever the
true share is, given the count among the n images of the reference. Out-of-distribution scores are
compared with those of the reference by the two-sample test of Kolmogorov and Smirnov.

Both assume independent images. Those of a case are of one slide or patient, and alike. A window is
therefore worth fewer images: as many as its design effect leaves, the variance between its cases
over the variance that independent images would have (Kish 1965). It is estimated from the window
itself, so that a change cannot hide in it; with few cases the estimate is rough.
"""

from __future__ import annotations

import math
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
        referred: Share of images referred, from 0 to 1.
        n: Independent images that this share was measured on.
        scores: Out-of-distribution scores, or evenly spaced quantiles of them; empty if unknown.
        scores_n: Independent images that the scores are of.
        source: `val`, or `baseline` for the first answers of this server.
    """

    referred: float
    n: float
    scores: tuple[float, ...]
    scores_n: float
    source: str


@dataclass(frozen=True)
class Comparison:
    """A window compared with the reference.

    Attributes:
        worth: Independent images that the window is worth, for the share referred.
        low: Lowest share referred that is no alarm.
        high: Highest share referred that is no alarm.
        p_referral: Probability of a count at least as extreme if nothing has changed.
        p_distances: The same of the distance between the distributions of scores; None if unknown.
        alarms: Those of `REFERRAL` and `DISTANCES` that the window sets off.
    """

    worth: float
    low: float
    high: float
    p_referral: float
    p_distances: float | None
    alarms: tuple[str, ...]


def compare(
    reference: Reference,
    referred: Sequence[bool],
    scores: Sequence[float | None],
    cases: Sequence[str | None],
    false_alarms: float,
) -> Comparison:
    """Compares a window of n answers with the reference.

    Args:
        reference: What is expected.
        referred: Whether each image was referred, (n,).
        scores: Out-of-distribution scores, (n,); None where an image has none.
        cases: Case of each image, (n,); None for an image of no case, which stands alone.
        false_alarms: Highest share of windows with an alarm if nothing has changed.
    """
    level = false_alarms / _TESTS
    flags = np.asarray(referred, float)
    worth = max(round(len(flags) / design_effect(flags, cases)), 1)
    low, high = predictive_band(reference.referred, reference.n, worth, level)
    p_referral = referral_p(reference.referred, reference.n, float(flags.mean()), worth)
    known = [i for i, score in enumerate(scores) if score is not None and math.isfinite(score)]
    p_distances = None
    if reference.scores and known:
        own = np.asarray([scores[i] for i in known], float)
        p_distances = distances_p(reference, own, [cases[i] for i in known])
    found = ((REFERRAL, p_referral), (DISTANCES, p_distances))
    alarms = tuple(name for name, p in found if p is not None and p <= level)
    return Comparison(worth, low, high, p_referral, p_distances, alarms)


def predictive_band(share: float, n: float, worth: int, level: float) -> tuple[float, float]:
    """Shares of `worth` new images that are no alarm at a two-sided level."""
    lower, upper = _tails(share, n, worth)
    counts = np.arange(worth + 1)
    inside = counts[(2 * lower > level) & (2 * upper > level)]
    return float(inside.min()) / worth, float(inside.max()) / worth


def referral_p(share: float, n: float, observed: float, worth: int) -> float:
    """Two-sided p-value of a share observed among `worth` new images; counts round inwards."""
    lower, upper = _tails(share, n, worth)
    count = observed * worth
    at_most = lower[min(math.ceil(count - 1e-9), worth)]
    at_least = upper[max(math.floor(count + 1e-9), 0)]
    return float(min(1.0, 2 * min(at_most, at_least)))


def _tails(share: float, n: float, worth: int) -> tuple[Floats, Floats]:
    """Probability of at most, and of at least, each count from 0 to `worth`; (worth + 1,) each."""
    from scipy.stats import betabinom  # takes a second

    found, counts = share * n, np.arange(worth + 1)
    lower, upper = np.ones(worth + 1), np.ones(worth + 1)
    if found > 0:
        lower = np.cumsum(betabinom.pmf(counts, worth, found, n - found + 1))
    if found < n:
        upper = np.cumsum(betabinom.pmf(counts, worth, found + 1, n - found)[::-1])[::-1]
    return lower, upper


def distances_p(reference: Reference, scores: Floats, cases: Sequence[str | None]) -> float:
    """p-value of the largest difference between the distributions of scores.

    Args:
        reference: Its scores are not empty.
        scores: Of the window, finite, (n,).
        cases: Case of each image, (n,).
    """
    from scipy.stats import kstwo  # takes a second

    expected = np.sort(np.asarray(reference.scores, float))
    pooled = np.sort(np.concatenate([expected, scores]))
    parts = (
        np.searchsorted(np.sort(one), pooled, "right") / len(one) for one in (expected, scores)
    )
    largest = float(np.abs(np.subtract(*parts)).max())
    ranks = np.searchsorted(expected, scores) / len(expected)
    worth = len(scores) / design_effect(ranks, cases)
    both = reference.scores_n * worth / (reference.scores_n + worth)
    return float(kstwo.sf(largest, max(round(both), 1)))


def design_effect(values: Floats, cases: Sequence[str | None]) -> float:
    """How many times the variance of a mean is that of independent images; at least 1.

    Args:
        values: (n,).
        cases: Case of each, (n,); None for an image of no case.
    """
    n = len(values)
    names = [("alone", str(i)) if case is None else ("case", case) for i, case in enumerate(cases)]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    groups = len(places)
    if groups == n:
        return 1.0
    if groups == 1:
        return float(n)
    rest = values - values.mean()
    total = float(np.square(rest).sum())
    if total == 0:
        return 1.0
    sums = np.bincount([places[name] for name in names], rest, groups)
    return max(1.0, groups / (groups - 1) * float(np.square(sums).sum()) / total)
