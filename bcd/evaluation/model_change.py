"""What changes between two versions of a model on the same labelled images, and whether to go on.

The new version may be used only if a loss beyond the limits is excluded: the 95 % interval of the
paired difference must end before the limit. Too few images exclude nothing, so then it may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcd.config.reference import ChangeLimits
from bcd.evaluation.bootstrap import Groups, effective_groups
from bcd.evaluation.intervals import tango
from bcd.evaluation.paired_tests import Difference, paired_interval
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.unsafe import is_unsafe

Booleans = NDArray[np.bool_]

NO_ANSWER = "no answer"
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
        old: With the frozen answers.
        new: With the new version.
        difference: New minus old, with its 95 % interval.
    """

    name: str
    n: int
    old: float
    new: float
    difference: Difference


@dataclass(frozen=True)
class Check:
    """A limit and whether it is met.

    Attributes:
        name: Of the limit.
        limit: The limit.
        found: The loss, the rise or the number that was found.
        worst: The end of its interval that is compared with the limit.
        result: `MET`, `EXCEEDED` (by what was found) or `UNDECIDED` (by the interval alone).
    """

    name: str
    limit: float
    found: float
    worst: float
    result: str


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
) -> ModelChange:
    """Compares the answers of two versions for the same images.

    Args:
        old: The frozen answers.
        new: Of the new version.
        malignant: The truth, (n,); None if no class is benign.
        groups: (n,), group of each image; None if images are independent.
        limits: Frozen with the set.
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
        _checks(by_name, len(unsafe), malignant is not None, limits),
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
        return Share(name, 0, np.nan, np.nan, nothing)
    own = None if groups is None else np.asarray(groups)[images]
    return Share(name, len(a), float(a.mean()), float(b.mean()), paired_shares(a, b, own))


def paired_shares(old: Booleans, new: Booleans, groups: Groups | None) -> Difference:
    """The difference of two shares of the same images, new minus old, with a 95 % interval.

    Over independent images this is Tango's score interval, which excludes nothing if there are few
    images, even where both agree on all. Over groups it is the wider of that interval and of the
    cluster bootstrap (`paired_interval`); if both agree everywhere, as many images count as there
    are effective groups.

    Args:
        old: Whether each image counts, (n,).
        new: The same for the new version, (n,).
        groups: (n,), group of each image; None if images are independent.
    """
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    value = (gained - lost) / len(old)
    if groups is None:
        return Difference(value, *tango(gained, lost, len(old)))
    if not gained and not lost:
        return Difference(value, *tango(0, 0, effective_groups(groups) or len(old)))
    low, high = tango(gained, lost, len(old))
    one_class = np.zeros(len(old), np.int64)
    # With "does not count" as the mistake, accuracy is the share that counts.
    _, least, most = paired_interval(
        one_class, (~new).astype(np.int64), (~old).astype(np.int64), 2, groups
    )["accuracy"]
    return Difference(value, min(low, least), max(high, most))


def _checks(
    shares: dict[str, Share], n_unsafe: int, by_malignancy: bool, limits: ChangeLimits
) -> list[Check]:
    accuracy, referred = shares["accuracy"].difference, shares["referred"].difference
    found = [_check("loss of accuracy", limits.accuracy_loss, -accuracy.value, -accuracy.low)]
    if by_malignancy:
        if "sensitivity" in shares:
            change = shares["sensitivity"].difference
            worst = (-change.value, -change.low)
        else:  # without malignant images, nothing is known
            worst = (np.nan, np.nan)
        found.append(_check("loss of sensitivity", limits.sensitivity_loss, *worst))
        result = MET if n_unsafe <= limits.newly_unsafe else EXCEEDED
        found.append(
            Check("newly unsafe malignant images", limits.newly_unsafe, n_unsafe, n_unsafe, result)
        )
    found.append(_check("rise of referral", limits.referral_rise, referred.value, referred.high))
    return found


def _check(name: str, limit: float, found: float, worst: float) -> Check:
    result = MET if worst < limit else EXCEEDED if found >= limit else UNDECIDED
    return Check(name, limit, found, worst, result)
