"""Decisions of a release: fitted to out-of-fold answers, and cross-fitted for its metrics.

Each image is answered by the member that was trained without its fold. The policy that is shipped
is fitted to these answers of all images. Metrics use another policy for each fold, fitted to the
answers for the other folds, so that no decision about an image has used its label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.decision import DecisionConfig
from bcd.evaluation.answers import Answers, softmax
from bcd.evaluation.decision import DecisionPolicy, Floats
from bcd.evaluation.ood import MAX_IMAGES, Subspace, fit_subspace
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.referral_budget import fit_limits
from bcd.evaluation.thresholds import Scope

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class MemberAnswers:
    """Answers of all members of an ensemble for n images.

    Attributes:
        logits: (members, n, classes); (1, n, classes) if only those of the member trained without
            each image are known, so that members are not compared.
        folds: The member that was trained and chosen without each image, (n,).
        descriptors: (n, d).
        labels: (n,).
        validated: Which members had each image in val, (members, n): not trained on either. None
            if members are not compared.
    """

    logits: NDArray[np.float32]
    folds: NDArray[np.int64]
    descriptors: NDArray[np.float32]
    labels: NDArray[np.int64]
    validated: Booleans | None = None

    def out_of_fold(self, temperature: float) -> Answers:
        """Each image's answer by the member trained without it.

        The disagreement is the mean total-variation distance between the probabilities of this
        member and of each one that had the image in val; NaN if there is none. Members that were
        trained on the image would tell its label.

        Args:
            temperature: Divides logits before members are compared.
        """
        rows, unknown = np.arange(len(self.folds)), np.full(len(self.folds), np.nan, np.float32)
        if len(self.logits) == 1:
            return Answers(self.logits[0], self.descriptors, self.labels, unknown)
        if self.validated is None:
            return Answers(self.logits[self.folds, rows], self.descriptors, self.labels, unknown)
        p = np.stack([softmax(np.asarray(own, np.float64) / temperature) for own in self.logits])
        apart = np.abs(p - p[self.folds, rows]).sum(axis=2) / 2
        counted = self.validated.sum(axis=0)
        total = np.where(self.validated, apart, 0).sum(axis=0)
        spread = np.where(counted > 0, total / np.maximum(counted, 1), np.nan).astype(np.float32)
        return Answers(self.logits[self.folds, rows], self.descriptors, self.labels, spread)

    def cross_fitted(self, policy: CrossFittedPolicy) -> Answers:
        """The same, with members compared at the temperature of the policy of each fold."""
        found = self.out_of_fold(1.0)
        spread = np.empty(len(self.folds), np.float32)
        for fold, part in enumerate(policy.parts):
            rows = self.folds == fold
            own = self.out_of_fold(part.temperature).disagreement
            assert own is not None
            spread[rows] = own[rows]
        return replace(found, disagreement=spread)


@dataclass(frozen=True)
class CrossFittedPolicy(DecisionPolicy):
    """Applies to each fold's images the policy fitted without them.

    All arguments of its methods are arrays of the same n images in the same order. Its other
    attributes are those of the policy fitted to all images.

    Attributes:
        parts: The policy of each fold.
        folds: Fold of each image, (n,).
    """

    parts: tuple[DecisionPolicy, ...] = ()
    folds: NDArray[np.int64] | None = None

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """As `DecisionPolicy.probabilities`."""
        return self._by_fold("probabilities", logits)

    def ood_score(self, descriptors: Floats) -> NDArray[np.float64]:
        """As `DecisionPolicy.ood_score`."""
        return self._by_fold("ood_score", descriptors)

    def malignant(self, probabilities: Floats) -> Booleans | None:
        """As `DecisionPolicy.malignant`."""
        if self.benign is None or self.malignant_threshold is None:
            return None
        return self._by_fold("malignant", probabilities)

    def sets(self, probabilities: Floats) -> Booleans:
        """As `DecisionPolicy.sets`."""
        return self._by_fold("sets", probabilities)

    def low_confidence(self, probabilities: Floats) -> Booleans:
        """As `DecisionPolicy.low_confidence`."""
        return self._by_fold("low_confidence", probabilities)

    def members_disagree(self, disagreement: Floats) -> Booleans:
        """As `DecisionPolicy.members_disagree`."""
        return self._by_fold("members_disagree", disagreement)

    def without_priors(self) -> CrossFittedPolicy:
        """The same policies without prior correction."""
        return replace(self, priors=None, parts=tuple(p.without_priors() for p in self.parts))

    def _by_fold(self, method: str, values: Floats) -> NDArray[Any]:
        assert self.folds is not None
        found: NDArray[Any] | None = None
        for fold, part in enumerate(self.parts):
            rows = np.flatnonzero(self.folds == fold)
            made = getattr(part, method)(values[rows])
            if found is None:
                found = np.empty((len(self.folds), *made.shape[1:]), made.dtype)
            found[rows] = made
        assert found is not None
        return found


class _Spaces:
    """Principal subspaces of the descriptors of all images but those of one or two folds."""

    def __init__(self, descriptors: NDArray[np.float32], folds: NDArray[np.int64]) -> None:
        self._descriptors, self._folds = descriptors, folds
        self._made: dict[frozenset[int], Subspace | None] = {}

    def without(self, *left_out: int | None) -> Subspace | None:
        """The subspace fitted without some folds; None if there are too few images."""
        key = frozenset(fold for fold in left_out if fold is not None)
        if key not in self._made:
            rows = np.flatnonzero(~np.isin(self._folds, [*key]))
            step = -(-len(rows) // MAX_IMAGES)
            self._made[key] = fit_subspace(self._descriptors[rows[::step]])
        return self._made[key]

    def distances(self, left_out: int | None) -> NDArray[np.float64]:
        """Distance (n,) of each image from the subspace of the other folds without `left_out`."""
        found = np.zeros(len(self._folds))
        for fold in np.unique(self._folds):
            space = self.without(int(fold), left_out)
            rows = self._folds == fold
            if space is not None:
                found[rows] = space.distance(self._descriptors[rows])
        return found


def fit_release(
    cfg: DecisionConfig,
    refer: float,
    given: MemberAnswers,
    benign: int | None,
    scope: Scope,
) -> tuple[DecisionPolicy, CrossFittedPolicy]:
    """Fits the policy of a release to out-of-fold answers.

    Args:
        cfg: The `decision` group.
        refer: Share of own images to refer, for all reasons together.
        given: Answers of all members; at least three folds.
        benign: Index of the benign class; None if there is none.
        scope: Groups of the images that count as one each, and what guarantees apply to.

    Returns:
        The policy fitted to all images, and the cross-fitted one, for metrics.

    Raises:
        BcdError: An output is not finite.
    """
    folds = np.unique(given.folds)
    spaces = _Spaces(given.descriptors, given.folds)
    everything = _fit(cfg, refer, given, spaces, None, benign, scope)
    parts = tuple(_fit(cfg, refer, given, spaces, int(fold), benign, scope) for fold in folds)
    cross = CrossFittedPolicy(**vars(everything), parts=parts, folds=given.folds)
    return everything, cross


def _fit(
    cfg: DecisionConfig,
    refer: float,
    given: MemberAnswers,
    spaces: _Spaces,
    left_out: int | None,
    benign: int | None,
    scope: Scope,
) -> DecisionPolicy:
    """The policy fitted to the answers for all folds but one."""
    rows = np.flatnonzero(given.folds != left_out)
    own = None if scope.groups is None else [scope.groups[i] for i in rows]
    part = Scope(own, scope.population)
    limited = replace(cfg, low_confidence=0.0)
    answers = given.out_of_fold(1.0)[rows]
    counts = np.bincount(answers.labels, minlength=answers.logits.shape[1])
    shares = [float(share) for share in counts / counts.sum()]
    space = spaces.without(left_out)
    policy = fit_policy(limited, answers, space, benign, part, shares)
    answers = given.out_of_fold(policy.temperature)[rows]
    probabilities = policy.probabilities(answers.logits)
    assert answers.disagreement is not None
    limits = fit_limits(
        refer, probabilities.max(axis=1), spaces.distances(left_out)[rows],
        answers.disagreement, policy.threshold_disagrees(probabilities), own,
    )  # fmt: skip
    return replace(
        policy,
        confidence_threshold=limits.confidence,
        disagreement_limit=limits.disagreement,
        subspace=None if space is None else replace(space, limit=limits.distance),
        expectation=None,  # single members answered, and the ensemble answers otherwise
    )
