"""Limits of several reasons for referral that together refer a given share of own images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups, group_ids
from bcd.evaluation.decision import Floats

_ROUNDING = 1e-9  # tolerance for sums of floats


class ReferralLimits(NamedTuple):
    """Limits of scores beyond which images are referred.

    Attributes:
        confidence: Images with a lower maximum probability are referred.
        distance: Images with a larger out-of-distribution distance are referred.
        disagreement: Images whose members differ more are referred.
    """

    confidence: float
    distance: float
    disagreement: float


def fit_limits(
    refer: float,
    confidence: Floats,
    distance: Floats,
    disagreement: Floats,
    forced: NDArray[np.bool_],
    groups: Groups | None = None,
) -> ReferralLimits:
    """Finds limits that together refer at most a given share of images.

    Each score is turned into a p-value: the share of images that are at least as unusual by this
    score, where each group has the same weight. One limit of the p-values, the largest that keeps
    to the share, gives the limit of each score, so no reason is preferred, and images with several
    reasons count once. As in `lower_limit`, a new group counts as referred as well.

    The disagreement may be known of some images only. The share of images that it alone refers is
    then estimated from these.

    Args:
        refer: Share of images to refer; 0: none by these limits.
        confidence: Maximum probability, (n,), of images that the model was not trained on.
        distance: Out-of-distribution distance, (n,), cross-fitted.
        disagreement: Of an ensemble's members, (n,); NaN if unknown.
        forced: Which images are referred whatever the limits are, (n,).
        groups: (n,), group of each image; None if images are independent.
    """
    numbers = group_ids(groups, len(confidence))
    known = np.isfinite(disagreement)
    scores = [np.asarray(s, np.float64) for s in (-confidence, distance)]
    p = np.where(forced, 0.0, np.min([_share_beyond(s, numbers) for s in scores], axis=0))
    apart = np.ones(len(p))
    if known.any():
        apart[known] = _share_beyond(disagreement[known].astype(np.float64), numbers[known])
    candidates = np.unique(np.concatenate([p, apart]))
    limit = 0.0
    for value in candidates if refer > 0 else ():
        if _referred(value, p, apart, known, numbers) > refer + _ROUNDING:
            break
        limit = float(value)
    kept = [_share_beyond(score, numbers) >= limit for score in scores]
    differ = np.inf
    if known.any() and limit > 0:
        differ = float(disagreement[known & (apart >= limit)].max(initial=-np.inf))
    if limit <= 0:
        return ReferralLimits(-np.inf, np.inf, np.inf)
    low, far = (float(score[k].max()) for score, k in zip(scores, kept, strict=True))
    return ReferralLimits(-low, far, differ)


def _referred(
    limit: float,
    p: NDArray[np.float64],
    apart: NDArray[np.float64],
    known: NDArray[np.bool_],
    numbers: NDArray[np.int64],
) -> float:
    """Share of images with a p-value below a limit."""
    by_others = p < limit
    share = _with_a_new_group(by_others, numbers)
    if known.any():
        share += _mean_of_groups((apart < limit)[known] & ~by_others[known], numbers[known])
    return share


def _with_a_new_group(chosen: NDArray[np.bool_], numbers: NDArray[np.int64]) -> float:
    """Share of chosen images, each group with the same weight and one more that is all chosen."""
    count = len(np.unique(numbers))
    return (1 + count * _mean_of_groups(chosen, numbers)) / (count + 1)


def _mean_of_groups(chosen: NDArray[np.bool_], numbers: NDArray[np.int64]) -> float:
    return float(np.average(chosen, weights=_weights(numbers)))


def _weights(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights with which each group counts the same."""
    _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / counts[place]
    return weights


def _share_beyond(score: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted share of images whose score is at least that of each image, (n,)."""
    weights = _weights(numbers)
    values, place = np.unique(score, return_inverse=True)
    held = np.bincount(place, weights, minlength=len(values))
    share: NDArray[np.float64] = held[::-1].cumsum()[::-1][place] / weights.sum()
    return share
