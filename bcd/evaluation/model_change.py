"""What changes between two versions of a model on the same labelled images, and whether to go on.

The new version may be used only if a loss beyond the limits is excluded: the 95 % interval of the
paired difference must end before the limit. Too few images exclude nothing, so then it may not.

Over groups (slides, patients), a set counts as many trials as it has effective groups (Kish 1965),
whatever the images of a group have in common: the intervals are Tango's with the shares of gained
and lost images in that many trials. This is the worst case, in which a version changes all images
of a group or none. It cannot be estimated from the set whether that is so: where no group was lost
as a whole, a version that loses one patient in fifty can look like one that loses single images. A
design effect estimated from the changes that happened let such versions through.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bcd.config.reference import ChangeLimits
from bcd.evaluation.bootstrap import Groups, effective_groups
from bcd.evaluation.intervals import tango
from bcd.evaluation.paired_tests import Difference
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.unsafe import is_unsafe

Booleans = NDArray[np.bool_]

_Z2 = NormalDist().inv_cdf(0.975) ** 2

NO_ANSWER = "no answer"
NEWLY_UNSAFE = "newly unsafe malignant images"
TRAINED = "images of the set that the new version was trained on"
MET, EXCEEDED, UNDECIDED = "met", "exceeded", "not excluded"


@dataclass(frozen=True)
class Answers:
    """A model's answers for n labelled images, by what counts.

    Attributes:
        predicted: Name of each predicted class, or `NO_ANSWER`.
        correct: Whether it is the true class, (n,).
        malignant: Whether each image is called malignant, (n,); false without an answer.
        refer: Whether each image is referred, (n,); true without an answer.
        probabilities: (n, classes); NaN without an answer.
    """

    predicted: list[str]
    correct: Booleans
    malignant: Booleans
    refer: Booleans
    probabilities: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        predictions: Sequence[Prediction],
        labels: Sequence[str],
        classes: Sequence[str],
        benign: str | None,
    ) -> Answers:
        """Of predictions in the order of the labels."""
        best = [p.best for p in predictions]
        names = [NO_ANSWER if place is None else classes[place] for place in best]
        pairs = zip(predictions, names, strict=True)
        called = [
            p.malignant if p.malignant is not None else name not in (NO_ANSWER, benign)
            for p, name in pairs
        ]
        nothing = (np.nan,) * len(classes)
        return cls(
            names,
            np.array([a == b for a, b in zip(names, labels, strict=True)], bool),
            np.array(called, bool),
            np.array([bool(p.refer) or not p.probabilities for p in predictions], bool),
            np.array([p.probabilities or nothing for p in predictions], np.float64),
        )


@dataclass(frozen=True)
class Share:
    """A share of images under both versions.

    Attributes:
        name: Of the share.
        n: Number of images that it is a share of.
        trials: What they count as: n, or the effective number of groups.
        old: With the frozen answers.
        new: With the new version.
        difference: New minus old, with its 95 % interval.
    """

    name: str
    n: int
    trials: float
    old: float
    new: float
    difference: Difference


@dataclass(frozen=True)
class Check:
    """A limit and whether it is met.

    Attributes:
        name: Of the limit.
        limit: The limit.
        found: The loss, the rise or the number that was found; None without any image of the kind.
        worst: The end of its interval that is compared with the limit; None where found is.
        result: `MET`, `EXCEEDED` (by what was found) or `UNDECIDED` (by the interval alone).
        trials: What the images count as; None if the limit is a number of images.
    """

    name: str
    limit: float
    found: float | None
    worst: float | None
    result: str
    trials: float | None = None

    @property
    def needed(self) -> int:
        """Images, or effective groups, below which not even an unchanged version meets it."""
        return math.floor(_Z2 * (1 - self.limit) / self.limit) + 1


@dataclass(frozen=True)
class ModelChange:
    """What changed.

    Attributes:
        n: Number of images.
        n_groups: Number of groups; None if images are independent.
        moved: Number of images by predicted class of the old and of the new version.
        shares: Shares of images under both versions.
        checks: The limits.
        newly_unsafe: Places of malignant images that are newly called benign and not referred.
        changed: Places of images whose predicted class, call of malignancy or referral changed.
        largest: Largest change of a probability; None if no image has an answer of both.
    """

    n: int
    n_groups: int | None
    moved: Counter[tuple[str, str]]
    shares: list[Share]
    checks: list[Check]
    newly_unsafe: list[int]
    changed: list[int] = field(default_factory=list)
    largest: float | None = None

    @property
    def go_on(self) -> bool:
        """Whether the new version may be used: all limits are met."""
        return all(check.result == MET for check in self.checks)


def compare_versions(
    old: Answers,
    new: Answers,
    malignant: Booleans | None,
    groups: Groups | None,
    limits: ChangeLimits,
    trained: int | None = None,
) -> ModelChange:
    """Compares the answers of two versions for the same images.

    Args:
        old: The frozen answers.
        new: Of the new version.
        malignant: The truth, (n,); None if no class is benign.
        groups: (n,), group of each image; None if images are independent.
        limits: Frozen with the set.
        trained: Number of the images that the new version was trained or chosen on; None if this
            is not known. With any, the set does not say what happens with new images.
    """
    n = len(old.predicted)
    every = np.ones(n, bool)
    shares = [_share("accuracy", every, old.correct, new.correct, groups)]
    unsafe: list[int] = []
    if malignant is not None:
        shares += [
            _share("sensitivity", malignant, old.malignant, new.malignant, groups),
            _share("specificity", ~malignant, ~old.malignant, ~new.malignant, groups),
        ]
        before, after = (is_unsafe(malignant, a.malignant, a.refer) for a in (old, new))
        shares += [
            _share("unsafe, malignant", malignant, before, after, groups),
            _share("unsafe, benign", ~malignant, before, after, groups),
        ]
        unsafe = np.flatnonzero(malignant & after & ~before).tolist()
    shares.append(_share("referred", every, old.refer, new.refer, groups))
    by_name = {share.name: share for share in shares if share.n}
    checks = _checks(by_name, len(unsafe), malignant is not None, limits)
    if trained is not None:
        checks.append(_count_check(TRAINED, 0, trained))
    gaps = np.abs(new.probabilities - old.probabilities)
    differ = (
        np.array([a != b for a, b in zip(old.predicted, new.predicted, strict=True)], bool)
        | (old.malignant != new.malignant)
        | (old.refer != new.refer)
    )
    return ModelChange(
        n,
        None if groups is None else len(set(groups)),
        Counter(zip(old.predicted, new.predicted, strict=True)),
        list(by_name.values()),
        checks,
        unsafe,
        np.flatnonzero(differ).tolist(),
        None if np.isnan(gaps).all() else float(np.nanmax(gaps)),
    )


def _share(
    name: str, images: Booleans, old: Booleans, new: Booleans, groups: Groups | None
) -> Share:
    a, b = old[images], new[images]
    if not len(a):
        nothing = Difference(np.nan, np.nan, np.nan)
        return Share(name, 0, 0, np.nan, np.nan, nothing)
    own = None if groups is None else np.asarray(groups)[images]
    trials = effective_groups(own) or len(a)
    change = paired_shares(a, b, trials)
    return Share(name, len(a), trials, float(a.mean()), float(b.mean()), change)


def paired_shares(old: Booleans, new: Booleans, trials: float) -> Difference:
    """The difference of two shares of the same images, new minus old, with a 95 % interval.

    The interval is Tango's. It excludes nothing if there are few trials, even where both agree on
    all images, and one more image lost never moves its lower end up.

    Args:
        old: Whether each image counts, (n,).
        new: The same for the new version, (n,).
        trials: What the images count as: n, or the effective number of their groups.
    """
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    each = trials / len(old)
    return Difference((gained - lost) / len(old), *tango(gained * each, lost * each, trials))


def _checks(
    shares: dict[str, Share], n_unsafe: int, by_malignancy: bool, limits: ChangeLimits
) -> list[Check]:
    found = [_loss("loss of accuracy", limits.accuracy_loss, shares["accuracy"])]
    if by_malignancy:
        loss = _loss("loss of sensitivity", limits.sensitivity_loss, shares.get("sensitivity"))
        found += [loss, _count_check(NEWLY_UNSAFE, limits.newly_unsafe, n_unsafe)]
    referred = shares["referred"]
    rise = referred.difference.value, referred.difference.high
    found.append(_check("rise of referral", limits.referral_rise, *rise, referred.trials))
    found.append(_loss("fall of referral", limits.referral_fall, referred))
    return found


def _loss(name: str, limit: float, share: Share | None) -> Check:
    if share is None:  # without any image of the kind, nothing is known
        return Check(name, limit, None, None, UNDECIDED, 0)
    return _check(name, limit, -share.difference.value, -share.difference.low, share.trials)


def _check(name: str, limit: float, found: float, worst: float, trials: float) -> Check:
    result = MET if worst < limit else EXCEEDED if found >= limit else UNDECIDED
    return Check(name, limit, found, worst, result, trials)


def _count_check(name: str, limit: int, found: int) -> Check:
    return Check(name, limit, found, found, MET if found <= limit else EXCEEDED)
