"""Decisions with a site's own threshold for malignancy, from those of a policy with another."""

from __future__ import annotations

from bcd.evaluation.decision import (
    DISAGREES,
    LOW_CONFIDENCE,
    MEMBERS_DISAGREE,
    OOD,
    UNDECIDED,
    Floats,
    Reasons,
    p_malignant,
)
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED

# All reasons for referral, in the order in which `DecisionPolicy.reasons` gives them.
_IN_ORDER = (
    NOT_FINITE, LOW_CONFIDENCE, UNDECIDED, OOD, DISAGREES, MEMBERS_DISAGREE, UNCALIBRATED,
)  # fmt: skip


def at_threshold(
    probabilities: Floats, reasons: Reasons, threshold: float, benign: int
) -> tuple[bool | None, Reasons]:
    """What a policy with another threshold would have decided about an image.

    Only what is called malignant and the reason `DISAGREES` depend on the threshold; calibrated
    probabilities, prediction sets and all other reasons do not. What the policy guarantees of its
    sensitivity, and the share of images that it expects to refer, do not hold for another one.

    Args:
        probabilities: Calibrated, of the image, (classes,).
        reasons: For which the policy refers it, also those that an exported file gave.
        threshold: Probability from which it is called malignant.
        benign: Index of the class that is not cancer.

    Returns:
        Whether it is called malignant, None if the output is not finite; and all reasons to refer
        it.
    """
    why = set(reasons) - {DISAGREES}
    called = None
    if NOT_FINITE not in why:
        called = bool(p_malignant(probabilities[None], benign)[0] >= threshold)
        if called != (probabilities.argmax() != benign):
            why.add(DISAGREES)
    return called, tuple(name for name in _IN_ORDER if name in why)
