"""Limits of several reasons for referral that together refer a given share of own images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups, group_ids
from bcd.evaluation.decision import Floats
from bcd.evaluation.thresholds import lower_limit


class ReferralLimits(NamedTuple):
    """Limits of scores beyond which images are referred.

    Attributes:
        confidence: Images with a lower maximum probability are referred.
        distance: Images with a larger out-of-distribution distance are referred.
        disagreement: Images whose members differ more are referred.
        share: Highest probability that a new image is beyond one of them.
    """

    confidence: float
    distance: float
    disagreement: float
    share: float


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
    score, where each group has the same weight. An image's smallest p-value is its own, 0 if it is
    referred anyway. The limit of that, from `lower_limit`, gives the limit of each score, so no
    reason is preferred, and images with several reasons count once.

    Args:
        refer: Share of images to refer; 0: none by these limits.
        confidence: Maximum probability, (n,), of images that the model was not trained on.
        distance: Out-of-distribution distance, (n,), cross-fitted.
        disagreement: Of an ensemble's members, (n,).
        forced: Which images are referred whatever the limits are, (n,).
        groups: (n,), group of each image; None if images are independent.
    """
    if refer <= 0:
        return ReferralLimits(-np.inf, np.inf, np.inf, 0.0)
    numbers = group_ids(groups, len(confidence))
    weights = 1 / np.bincount(numbers)[numbers]
    unusual = [np.asarray(s, np.float64) for s in (-confidence, distance, disagreement)]
    shares = np.stack([_share_beyond(score, weights) for score in unusual])
    combined = np.where(forced, 0.0, shares.min(axis=0))
    found = lower_limit(combined, refer, groups)
    kept = shares >= found.value
    low, far, differ = (float(s[k].max()) for s, k in zip(unusual, kept, strict=True))
    return ReferralLimits(-low, far, differ, found.share)


def _share_beyond(score: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted share of images whose score is at least that of each image, (n,)."""
    values, place = np.unique(score, return_inverse=True)
    held = np.bincount(place, weights, minlength=len(values))
    share: NDArray[np.float64] = held[::-1].cumsum()[::-1][place] / weights.sum()
    return share
