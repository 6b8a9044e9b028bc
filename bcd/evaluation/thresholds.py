"""Thresholds chosen on val so that a guarantee for new images holds, whatever the scores mean.

All follow from ranks alone. They assume nothing of the scores, only that new images come from the
same distribution as those of val. There are two kinds of guarantee.

`threshold_for_sensitivity` gives a guarantee with a confidence, as a one-sided nonparametric
tolerance limit does (Wilks, "Determination of sample sizes for setting tolerance limits", 1941).
The share of all malignant images that score above the k-th lowest of n independent malignant images
has the distribution Beta(n + 1 - k, k). So the target sensitivity is missed with the probability
that at most k - 1 of n fall among the lowest 1 - sensitivity of all, which is binomial (the bound
of Clopper and Pearson 1934). Images of one slide are not independent, so each slide contributes its
lowest malignant score. A new slide has an image below a threshold at least as often as an image
drawn at random from it is below, whatever its images have in common, so the binomial still bounds
the probability of a miss. The sensitivity is then that of an image drawn at random from a slide
drawn at random: all slides have the same weight. It equals that of all images if the number of
images of a slide is unrelated to how hard they are; it can be far lower if slides with many images
are hard.

`lower_limit` gives a guarantee on average over val sets (split conformal prediction, Vovk,
Gammerman and Shafer 2005). With groups it is hierarchical conformal prediction (Lee, Barber and
Willett 2023, arXiv:2306.06342): each of K groups has weight 1 / (K + 1), shared evenly by its
images, and 1 / (K + 1) is beyond the most extreme score. It too applies to an image drawn at random
from a new group drawn at random.

If val is too small for the target, its lowest score is used, and what that supports is guaranteed.
A threshold for malignancy is then at most 0.5: a lower one also keeps the guarantee, and up to 0.5
it finds every malignant image whose most probable class is malignant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import Groups, fill_group_names, group_ids

Floats = NDArray[np.floating[Any]]

_EVEN = 0.5  # probability from which malignant is more probable than benign
_ROUNDING = 1e-9  # tolerance for sums of floats


class SensitivityThreshold(NamedTuple):
    """A threshold for calling images malignant, and its guarantee.

    Attributes:
        threshold: Probability from which an image is called malignant.
        guaranteed: Sensitivity; 0 if nothing can be guaranteed.
        n_units: Independent malignant images or groups that it is based on.
    """

    threshold: float
    guaranteed: float
    n_units: int

    def policy_fields(self) -> dict[str, Any]:
        """The same by the names of `DecisionPolicy`."""
        return {
            "malignant_threshold": self.threshold,
            "guaranteed_sensitivity": self.guaranteed,
            "n_malignant_units": self.n_units,
        }


class Limit(NamedTuple):
    """A lower limit of scores, and how often a new score can be below it.

    Attributes:
        value: The limit.
        share: Highest probability that the score of a new image is below the limit.
        n_units: Independent images or groups that it is based on.
    """

    value: float
    share: float
    n_units: int


class Scope(NamedTuple):
    """What guarantees apply to.

    Attributes:
        groups: Group of each image of val if a group counts as one; None if images count.
        population: In words, to follow "Applies to".
        by_overlaps: Whether groups are images that overlap, because no group is known.
    """

    groups: list[str] | None
    population: str
    by_overlaps: bool = False


INDEPENDENT_IMAGES = Scope(
    None, "images from the same source as val, assuming that those of val are independent"
)


def threshold_for_sensitivity(
    p_malignant: Floats,
    malignant: NDArray[np.bool_],
    target: float,
    confidence: float,
    groups: Groups | None = None,
) -> SensitivityThreshold:
    """Finds the highest threshold that reaches a sensitivity with the requested confidence.

    Args:
        p_malignant: (n,), of images that the model was not trained on.
        malignant: (n,), the truth.
        target: Sensitivity, between 0 and 1.
        confidence: At most 1 - confidence of all val sets may give a threshold that misses.
        groups: (n,), group of each image; None if images are independent.

    Returns:
        The threshold. Without malignant images it is 0, which calls everything malignant and
        guarantees nothing.
    """
    scores = np.asarray(p_malignant, np.float64)[malignant]
    if len(scores) == 0:
        return SensitivityThreshold(0.0, 0.0, 0)
    if groups is not None:
        numbers = group_ids(np.asarray(groups)[malignant], len(scores))
        lowest = np.full(int(numbers.max()) + 1, np.inf)
        np.minimum.at(lowest, numbers, scores)
        scores = lowest
    n, rank = len(scores), threshold_rank(len(scores), target, confidence)
    if rank == 0:
        lowest_score = min(float(scores.min()), _EVEN)
        return SensitivityThreshold(lowest_score, attainable_sensitivity(n, confidence), n)
    return SensitivityThreshold(float(np.partition(scores, rank - 1)[rank - 1]), target, n)


def threshold_rank(n: int, target: float, confidence: float) -> int:
    """Rank, from the lowest, of the malignant score to use as threshold; 0 if n is too small.

    It is the largest rank whose threshold misses the target sensitivity with a probability of at
    most 1 - confidence over draws of n independent malignant images.
    """
    from scipy.special import bdtr

    missed = bdtr(np.arange(n, dtype=np.float64), n, 1 - target)  # by the ranks 1 to n
    return int((missed <= 1 - confidence).sum())


def attainable_sensitivity(n: int, confidence: float) -> float:
    """Sensitivity that the lowest of n independent malignant scores guarantees."""
    return float((1 - confidence) ** (1 / n))


def units_needed(sensitivity: float, confidence: float) -> int | None:
    """Independent malignant images or groups that a sensitivity requires.

    None if no number is enough, as for a sensitivity of 1.
    """
    if sensitivity >= 1:
        return None
    return math.ceil(math.log(1 - confidence) / math.log(sensitivity) - _ROUNDING)


def lower_limit(scores: Floats, share: float, groups: Groups | None = None) -> Limit:
    """Finds the highest limit that the score of a new image is below with at most that probability.

    Args:
        scores: (n,), n at least 1, of images that the model was not trained on.
        share: Target probability, above 0.
        groups: (n,), group of each image; None if images are independent.

    Returns:
        The limit, which is one of the scores, and the guaranteed probability.
    """
    numbers = group_ids(groups, len(scores))
    sizes = np.bincount(numbers)
    order = np.argsort(scores, kind="stable")
    weights = 1 / ((len(sizes) + 1) * sizes[numbers[order]])
    beyond = 1 / (len(sizes) + 1)
    below = beyond + np.cumsum(weights) - weights
    fit = int((below <= share + _ROUNDING).sum())
    return Limit(float(scores[order[max(fit - 1, 0)]]), max(share, beyond), len(sizes))


def of_random_split(files: Sequence[str], source: str) -> Scope:
    """What guarantees apply to if chance alone decided which files are where.

    Args:
        files: File of each image, empty if it shares it with no other.
        source: Where the images come from, to follow "the slides that".
    """
    if (units := fill_group_names(files)) is None:
        return Scope(None, f"other images of the slides that {source}, not to new slides")
    return Scope(
        units,
        f"an image of another file of the slides that {source}, not to new slides; each file has "
        "the same weight",
    )


def find_scope(
    kind: str,
    val: Sequence[str],
    train: Sequence[str],
    known: bool = True,
    files: Sequence[str] = (),
) -> Scope:
    """Determines what guarantees based on val apply to, and whether its groups count as one each.

    If chance alone decided which image is in val, images are exchangeable and count individually,
    and the guarantee applies to other images of the same slides; where files of several pictures
    were drawn as a whole, these count. If groups were kept together, or if val was given, only
    groups are exchangeable.

    Args:
        kind: As `split.kind`.
        val: Group of each image of val, empty if unknown.
        train: Group of each training image, empty if unknown.
        known: Whether these groups are known; False if they only join images that overlap.
        files: File of each image of val, empty if it shares it with no other; without any, images
            were drawn one by one.
    """
    if kind in ("stratified", "kfold"):
        return of_random_split(files, "val comes from")
    groups = fill_group_names(val)
    if groups is None:
        return INDEPENDENT_IMAGES
    if not known:
        return Scope(
            groups,
            "images from the same source as val, assuming that those of val that do not overlap "
            "are independent",
            by_overlaps=True,
        )
    if kind == "blocked":
        return Scope(
            groups,
            "an image of a group like those of val, assuming that these groups, which are "
            "adjacent in file order, were drawn at random; each group has the same weight",
        )
    named = set(val) - {""}
    if shared := len(named & set(train)):
        return Scope(
            groups,
            f"an image of a group like those of val, {shared} of which also have images in "
            "train; each group has the same weight",
        )
    return Scope(
        groups, "an image of a new group (slide, patient or block); each group has the same weight"
    )
