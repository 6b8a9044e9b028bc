"""Recalibration: temperature and threshold fitted to a few labelled images of another site.

Everything else of the decision policy is kept. The limit of the highest probability below which an
image is referred applies to the recalibrated probabilities, so a model that is overconfident at
the site refers more images there, and the limit of the out-of-distribution score does not depend
on the temperature. Limits are not fitted anew, because labelled images that look foreign would
widen them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.errors import BcdError
from bcd.evaluation.answers import Answers
from bcd.evaluation.bootstrap import effective_groups, group_ids
from bcd.evaluation.calibration import calibrated_probabilities, fit_temperature
from bcd.evaluation.conformal import conformal_threshold
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.decision import DecisionPolicy, Decisions, p_malignant, referred
from bcd.evaluation.malignancy import TWO, malignancy_metrics
from bcd.evaluation.metrics import clinical_metrics
from bcd.evaluation.results import referral_metrics
from bcd.evaluation.thresholds import Scope, threshold_for_sensitivity, units_needed
from bcd.evaluation.unsafe import unsafe_metrics

FOLDS = 5  # of cross-fitting


def check_labels(
    malignant: NDArray[np.bool_], scope: Scope, sensitivity: float, confidence: float
) -> None:
    """Checks that there are enough labels for a guarantee and for cross-fitting.

    Args:
        malignant: The truth, (n,).
        scope: Groups of the images.
        sensitivity: The least that must be guaranteed.
        confidence: Of the guarantee.

    Raises:
        BcdError: There are too few, or they are all benign or all malignant.
    """
    numbers = group_ids(scope.groups, len(malignant))
    have = [len(np.unique(numbers[malignant == kind])) for kind in (True, False)]
    units = "images" if scope.groups is None or scope.by_overlaps else "groups"
    if 0 in have:
        missing = TWO[1 - have.index(0)]
        raise BcdError(
            f"there are no {missing} images among the {len(malignant)} labels: temperature and "
            "threshold need benign and malignant ones"
        )
    needed = max(units_needed(sensitivity, confidence) or 0, FOLDS)
    if have[0] < needed or have[1] < FOLDS:
        raise BcdError(
            f"{have[0]} malignant and {have[1]} benign {units} are labelled"
            f"{', those that overlap counted once' * scope.by_overlaps}. To guarantee a "
            f"sensitivity of {sensitivity:.4g} with confidence {confidence:.4g} and to check it by "
            f"cross-fitting takes {needed} malignant and {FOLDS} benign {units}: label more, or "
            "lower min_sensitivity"
        )


def refit(policy: DecisionPolicy, local: Answers, benign: int, scope: Scope) -> DecisionPolicy:
    """The policy with temperature and malignancy threshold fitted to labelled images.

    The temperature has its prior around that of the policy, and images count as many times as
    there are independent groups, as on val. The threshold is that of `threshold_for_sensitivity`
    at the policy's target. Prediction sets are fitted anew if all labels are classes of the
    model; otherwise they hold every class.

    Args:
        policy: That of the checkpoint.
        local: Outputs for the labelled images; a label beyond the classes means malignant.
        benign: Index of the benign class.
        scope: Groups of the images, and the population of the guarantees.
    """
    labels, classes, groups = local.labels, local.logits.shape[1], scope.groups
    temperature = fit_temperature(
        local.logits, possible_classes(labels, classes, benign), effective_groups(groups),
        policy.temperature,
    )  # fmt: skip
    probabilities = calibrated_probabilities(local.logits, temperature, policy.priors)
    found = threshold_for_sensitivity(
        p_malignant(probabilities, benign), labels != benign, policy.target_sensitivity,
        policy.confidence, groups,
    )  # fmt: skip
    new = replace(
        policy,
        temperature=temperature,
        by_groups=groups is not None,
        by_overlaps=scope.by_overlaps,
        population=scope.population,
        n_units=len(set(group_ids(groups, len(labels)))),
        set_threshold=0.0,
        guaranteed_coverage=1.0,
        expectation=None,  # it was for answers with the former temperature and threshold
        **found.policy_fields(),
    )
    if (labels >= classes).any():
        return new
    sets = conformal_threshold(probabilities, labels, policy.target_coverage, groups)
    return replace(new, set_threshold=sets.value, guaranteed_coverage=1 - sets.share)


def possible_classes(labels: NDArray[np.int64], classes: int, benign: int) -> NDArray[np.bool_]:
    """Classes that each image may be of, (n, classes); all but the benign one if malignant."""
    known = np.arange(classes) == labels[:, None]
    coarse = (labels >= classes)[:, None] & (np.arange(classes) != benign)
    return np.asarray(known | coarse)


def cross_fit(policy: DecisionPolicy, local: Answers, benign: int, scope: Scope) -> Decisions:
    """Decisions about labelled images, each by a policy that was refitted without its group.

    The arguments are those of `refit`. There are `FOLDS` folds of whole groups.
    """
    folds = deal_folds(local.labels != benign, scope.groups)
    probabilities = np.empty(local.logits.shape)
    sets, scores = np.empty(local.logits.shape, bool), np.empty(len(local.logits))
    decided: dict[int, tuple[bool | None, tuple[str, ...]]] = {}
    for fold in range(FOLDS):
        out, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        groups = None if scope.groups is None else [scope.groups[i] for i in rest]
        fitted = refit(policy, _some(local, rest), benign, scope._replace(groups=groups))
        found = fitted.answer(local.logits[out], local.descriptors[out])
        probabilities[out] = found.probabilities
        sets[out], scores[out] = found.sets, found.ood_scores
        pairs = zip(found.malignant, found.reasons, strict=True)
        decided |= dict(zip(out.tolist(), pairs, strict=True))
    in_order = [decided[i] for i in range(len(folds))]
    malignant, reasons = [m for m, _ in in_order], [why for _, why in in_order]
    return Decisions(probabilities, malignant, reasons, sets, scores)


def deal_folds(malignant: NDArray[np.bool_], groups: list[str] | None) -> NDArray[np.int64]:
    """Fold (n,) of each image, with groups together and their kinds spread evenly.

    With `FOLDS` groups of benign and of malignant images or more, no fold holds all of either.
    """
    numbers = group_ids(groups, len(malignant))
    has_benign, has_malignant = (np.bincount(numbers, malignant == v) > 0 for v in (False, True))
    kinds = has_benign + 2 * has_malignant
    order = np.random.default_rng(0).permutation(len(kinds))
    order = order[np.argsort(kinds[order], kind="stable")]
    folds = np.empty(len(kinds), np.int64)
    folds[order] = np.arange(len(kinds)) % FOLDS
    return folds[numbers]


def _some(local: Answers, rows: NDArray[np.int64]) -> Answers:
    return Answers(local.logits[rows], local.descriptors[rows], local.labels[rows])


def decision_metrics(
    decisions: Decisions, malignant: NDArray[np.bool_], benign: int, groups: list[str] | None
) -> dict[str, Any]:
    """Metrics of decisions about malignancy, by the names of `metrics.json`.

    Args:
        decisions: With a decision about malignancy for every image.
        malignant: The truth, (n,).
        benign: Index of the benign class.
        groups: Group of each image; None if images are independent.
    """
    called = np.array([value is True for value in decisions.malignant])
    refer = referred(decisions.reasons)
    clinical = clinical_metrics(malignant, called)
    ci = confusion_intervals(malignant.astype(np.int64), called.astype(np.int64), TWO, 0, groups)
    names = ("malignant_sensitivity", "malignant_specificity")
    return {
        "n": len(malignant),
        "malignancy": malignancy_metrics(
            p_malignant(decisions.probabilities, benign), malignant, groups
        ),
        "at_threshold": {name: clinical[name] for name in names}
        | {f"{name}_ci": ci[name] and list(ci[name]) for name in names},
        **unsafe_metrics(malignant, called, refer, groups),
        **referral_metrics(decisions, groups),
        "n_groups": None if groups is None else len(set(groups)),
        "effective_groups": effective_groups(groups),
    }
