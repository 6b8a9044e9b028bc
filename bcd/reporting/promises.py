"""What a decision policy promises, in words: the same in the run's output and in the report."""

from __future__ import annotations

import math

from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.thresholds import units_wanted


def chosen_on_val(epoch: bool) -> str:
    """What val was used for beside, and what that leaves of the promises.

    Args:
        epoch: Whether val chose the epoch.
    """
    if not epoch:
        return (
            "Val also chose the temperature, so promises hold strictly for a temperature fixed "
            "beforehand."
        )
    return (
        "Val also chose the epoch and the temperature, so promises hold strictly for an epoch and "
        "a temperature fixed beforehand; simulated with five epochs to choose from, up to 15 % of "
        "vals missed where 10 % were promised."
    )


def promise_lines(policy: DecisionPolicy) -> list[str]:
    """What the threshold and the prediction sets promise, a line each; a warning where nothing."""
    if not policy.calibrated:
        return ["warning: uncalibrated: nothing was decided on val, so every image is referred"]
    return [line for line in (threshold_line(policy), sets_line(policy)) if line]


def threshold_line(policy: DecisionPolicy) -> str:
    """What the threshold for malignancy promises; empty where there is none."""
    if policy.malignant_from is None:
        return ""
    if policy.malignant_units == 0:
        return "Threshold: no malignant image in val, so all is called malignant; no promise."
    units = _counted(policy.malignant_units, "malignant", policy.by_groups)
    kept = (
        f"Threshold: malignant from {policy.malignant_from:.4g} on, for a sensitivity of at least "
        f"{_at_least(policy.sensitivity_kept)} with a confidence of {_at_least(policy.confidence)} "
        f"({units} of val"
    )
    if policy.sensitivity_kept < policy.sensitivity:
        needed = units_wanted(policy.sensitivity, policy.confidence)
        enough = "no number is enough" if needed is None else f"takes {needed}"
        kept += f"; {policy.sensitivity * 100:.4g}% wanted, {enough}"
    return f"{kept}). About {policy.about}."


def sets_line(policy: DecisionPolicy) -> str:
    """What prediction sets promise."""
    units = _counted(policy.units, "", policy.by_groups)
    wanted = f", {policy.coverage:.1%} wanted" if policy.covered < policy.coverage - 1e-9 else ""
    return (
        f"Prediction sets: at least {_at_least(policy.covered)} hold the true class, on average "
        f"over vals ({units} of val{wanted}). About {policy.about}."
    )


def referral_line(policy: DecisionPolicy) -> str:
    """Where an image is referred, with the limits that were chosen."""
    where = []
    if math.isfinite(policy.unsure_below):
        where.append(f"its highest probability is below {policy.unsure_below:.3f}, a limit of val")
    if policy.subspace is not None and math.isfinite(policy.subspace.limit):
        where.append("its features are unlike those of the training images, by a limit of val")
    if policy.malignant_from is not None:
        where.append("the threshold and the most probable class disagree")
    if not where:
        return "No image that can be answered is referred."
    return f"An image is referred where {', or where '.join(where)}; it may have several reasons."


def _at_least(share: float) -> str:
    """A share in percent, rounded down: what is promised must not be rounded up."""
    return f"{math.floor(share * 1000 + 1e-6) / 10:.1f}%"


def _counted(n: int, kind: str, by_groups: bool) -> str:
    noun = "group" if by_groups else "image"
    words = f"{kind} {noun}".strip()
    return f"{n} {words}" + ("" if n == 1 else "s")
