"""Limits that are chosen on val so that a promise about other images holds, however they score.

All follow from ranks alone, so nothing is assumed of the scores, only that val's images and the
others come about in the same way. Two kinds of promise are made.

`sensitive_threshold` promises with a confidence. Of n independent malignant images the share of
all malignant ones that the k-th lowest score lies above is distributed as Beta(n + 1 - k, k), so
the promised sensitivity is missed with the chance that at most k - 1 of n fall into the lowest
1 - sensitivity of all, a binomial one. Images of one slide are not independent; there each
slide's lowest malignant score is one draw. A new slide holds an image below a threshold at least
as often as an image drawn at random from it lies below, whatever its images have in common, so
the binomial still bounds the chance of a miss. The sensitivity is then that of an image drawn at
random from a slide drawn at random: slides weigh the same. It is that of all images too where the
number of images of a slide has nothing to do with how hard they are, and may be far less where
the slides with most images are the hard ones.

`lower_limit` promises on average over vals (split conformal prediction); with groups it is
hierarchical conformal prediction (Lee, Barber and Willett 2023, arXiv:2306.06342): each of K groups
weighs 1 / (K + 1), shared evenly by its images, and 1 / (K + 1) lies beyond the worst. It too is
about an image drawn at random from a new group drawn at random.

Where val is too small for what is wanted, its lowest score is taken and what that supports is
promised. A threshold for calling malignant is then 0.5 at most: a lower one keeps the promise all
the same, and up to 0.5 it finds every malignant image that the most probable class finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups, group_numbers, named_groups

Floats = NDArray[np.floating[Any]]

_EVEN = 0.5  # probability from which on malignant is the more probable
_ROUNDING = 1e-9  # by so much a sum may miss what it is


class Sensitivity(NamedTuple):
    """A threshold for calling malignant, and what it promises.

    Attributes:
        threshold: Probability from which on an image is called malignant.
        promised: Sensitivity; 0 where nothing can be promised.
        units: Independent malignant images or groups that it rests on.
    """

    threshold: float
    promised: float
    units: int


class Limit(NamedTuple):
    """A lowest score that is still usual, and how often others may fall below.

    Attributes:
        value: The limit.
        share: Chance of a new image to lie below, at most.
        units: Independent images or groups that it rests on.
    """

    value: float
    share: float
    units: int


class Scope(NamedTuple):
    """What promises are about.

    Attributes:
        groups: Of each of val's images where a group counts as one; None where images count.
        about: In words, to follow "about".
    """

    groups: list[str] | None
    about: str


ONE_BY_ONE = Scope(None, "images that come about as val's do, were val's independent")


def sensitive_threshold(
    p_malignant: Floats,
    malignant: NDArray[np.bool_],
    wanted: float,
    confidence: float,
    groups: Groups | None = None,
) -> Sensitivity:
    """Finds the largest threshold that keeps a sensitivity with the wanted confidence.

    Args:
        p_malignant: (n,), of images the model was not trained on.
        malignant: (n,), the truth.
        wanted: Sensitivity, between 0 and 1.
        confidence: At most 1 - confidence of all vals may lead to a threshold that misses.
        groups: (n,), what each image belongs to; None where each stands for itself.

    Returns:
        The threshold; 0, which calls everything malignant and promises nothing, without malignant
        images.
    """
    scores = np.asarray(p_malignant, np.float64)[malignant]
    if len(scores) == 0:
        return Sensitivity(0.0, 0.0, 0)
    if groups is not None:
        numbers = group_numbers(np.asarray(groups)[malignant], len(scores))
        lowest = np.full(int(numbers.max()) + 1, np.inf)
        np.minimum.at(lowest, numbers, scores)
        scores = lowest
    units, rank = len(scores), kept_rank(len(scores), wanted, confidence)
    if rank == 0:
        lowest_score = min(float(scores.min()), _EVEN)
        return Sensitivity(lowest_score, supported_sensitivity(units, confidence), units)
    return Sensitivity(float(np.partition(scores, rank - 1)[rank - 1]), wanted, units)


def kept_rank(n: int, wanted: float, confidence: float) -> int:
    """Rank, from the lowest, of the malignant score to take as threshold; 0 where n is too small.

    It is the largest whose threshold misses the wanted sensitivity in at most 1 - confidence of
    all draws of n independent malignant images.
    """
    from scipy.special import bdtr

    missed = bdtr(np.arange(n, dtype=np.float64), n, 1 - wanted)  # by the ranks 1 to n
    return int((missed <= 1 - confidence).sum())


def supported_sensitivity(n: int, confidence: float) -> float:
    """Sensitivity that the lowest of n independent malignant scores keeps with that confidence."""
    return float((1 - confidence) ** (1 / n))


def units_wanted(sensitivity: float, confidence: float) -> int | None:
    """Independent malignant images or groups that a sensitivity wants; None: none are enough."""
    if sensitivity >= 1:
        return None
    return math.ceil(math.log(1 - confidence) / math.log(sensitivity) - _ROUNDING)


def lower_limit(scores: Floats, share: float, groups: Groups | None = None) -> Limit:
    """Finds the largest limit below which a new image's score lies with at most that chance.

    Args:
        scores: (n,), n at least 1, of images the model was not trained on.
        share: Wanted chance, above 0.
        groups: (n,), what each image belongs to; None where each stands for itself.

    Returns:
        The limit, which is one of the scores, and the chance that holds.
    """
    numbers = group_numbers(groups, len(scores))
    sizes = np.bincount(numbers)
    order = np.argsort(scores, kind="stable")
    weights = 1 / ((len(sizes) + 1) * sizes[numbers[order]])
    beyond = 1 / (len(sizes) + 1)
    below = beyond + np.cumsum(weights) - weights
    fit = int((below <= share + _ROUNDING).sum())
    return Limit(float(scores[order[max(fit - 1, 0)]]), max(share, beyond), len(sizes))


def find_scope(kind: str, val: Sequence[str], train: Sequence[str]) -> Scope:
    """Says what promises that rest on val are about, and whether its groups count as one each.

    Where chance alone decided which image is in val, images are exchangeable and count one by
    one, and the promise is about other images of the same slides. Where groups were kept
    together, or somebody else chose val, only groups are.

    Args:
        kind: As `split.kind`.
        val: Group of each of val's images, empty where unknown.
        train: Likewise of the training images.
    """
    if kind in ("stratified", "kfold"):
        return Scope(None, "other images of the slides that val's are from, not new slides")
    groups = named_groups(val)
    if groups is None:
        return ONE_BY_ONE
    if kind == "blocked":
        return Scope(
            groups,
            "an image of a group as val's, were these, which stand next to each "
            "other in file order, drawn at random; each weighs the same",
        )
    named = set(val) - {""}
    if shared := len(named & set(train)):
        return Scope(
            groups,
            f"an image of a group as val's, {shared} of which were trained on "
            "too; each weighs the same",
        )
    return Scope(groups, "an image of a new group (slide, patient or block), each weighs the same")
