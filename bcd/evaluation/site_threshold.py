"""Decisions with a site's own threshold for malignancy, from those of a policy with another."""

from __future__ import annotations

from bcd.evaluation.decision import (
    DISAGREES,
    LOW_CONFIDENCE,
    MEMBERS_DISAGREE,
    OOD,
    UNDECIDED,
    Decisions,
    Reasons,
    p_malignant,
)
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED

# All reasons for referral, in the order in which `DecisionPolicy.reasons` gives them.
_IN_ORDER = (
    NOT_FINITE, LOW_CONFIDENCE, UNDECIDED, OOD, DISAGREES, MEMBERS_DISAGREE, UNCALIBRATED,
)  # fmt: skip


def at_threshold(
    decisions: Decisions, index: int, threshold: float, benign: int
) -> tuple[bool | None, Reasons]:
    """What a policy with another threshold would have decided about an image.

    Only what is called malignant and the reason `DISAGREES` depend on the threshold; calibrated
    probabilities, prediction sets and all other reasons do not. What the policy guarantees of its
    sensitivity, and the share of images that it expects to refer, do not hold for another one.

    Args:
        decisions: Of the policy, also those that an exported file made.
        index: Of the image in them.
        threshold: Probability from which it is called malignant.
        benign: Index of the class that is not cancer.

    Returns:
        Whether it is called malignant, None if the output is not finite; and all reasons to refer
        it.
    """
    why = set(decisions.reasons[index]) - {DISAGREES}
    called = None
    if NOT_FINITE not in why:
        row = decisions.probabilities[index : index + 1]
        called = bool(p_malignant(row, benign)[0] >= threshold)
        if called != (row.argmax() != benign):
            why.add(DISAGREES)
    return called, tuple(name for name in _IN_ORDER if name in why)
