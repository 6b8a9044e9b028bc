"""What a re-run of a reference set found, in sentences."""

from __future__ import annotations

from bcd.console import say
from bcd.evaluation.model_change import EXCEEDED, Check, ModelChange
from bcd.evaluation.reference_set import FrozenModel, ReferenceSet

_OPPOSITE = {"loss": "gain", "rise": "fall", "fall": "rise"}


def decision(change: ModelChange) -> str:
    """Whether to go on, in a sentence."""
    if change.go_on:
        return "go on: the new version meets all limits of the reference set"
    if any(check.result == EXCEEDED for check in change.checks):
        return "do not go on: the new version exceeds a limit of the reference set"
    return (
        "do not go on: the set has too few images or groups, or the versions differ too much, to "
        "exclude a loss beyond the limits"
    )


def check_text(check: Check) -> str:
    """A limit and what was found, in a sentence."""
    if check.found is None or check.worst is None:
        return (
            f"{check.name}: unknown, as the set has no malignant image (limit "
            f"{100 * check.limit:.2f}): {check.result}"
        )
    if check.trials is None:
        return f"{check.name}: {check.found:.0f} (limit {check.limit:.0f}): {check.result}"
    found, worst = f"{100 * check.found + 0.0:.2f}", f"less than {100 * check.worst:.2f}"
    if check.found < 0:
        kind = _OPPOSITE[check.name.split()[0]]
        found = f"none, but a {kind} of {-100 * check.found:.2f}"
        if check.worst < 0:
            worst = f"a {kind} of more than {-100 * check.worst:.2f}"
        else:
            worst = f"a {check.name.split()[0]} of {worst}"
    return (
        f"{check.name}: {found} points, with 95 % confidence {worst} "
        f"(limit {100 * check.limit:.2f}): {check.result}"
    )


def tell_limits_out_of_reach(unchanged: ModelChange) -> None:
    """Warns of limits that no version can meet, as the set is too small.

    Args:
        unchanged: Of a version compared with itself.
    """
    for check in unchanged.checks:
        if text := _too_small(check, unchanged.n_groups is not None):
            say(f"warning: no version can meet the limit of {check.name}: {text}")


def _too_small(check: Check, grouped: bool) -> str:
    if check.trials is None or check.trials >= check.needed:
        return ""
    if not check.trials:
        return "the set has no malignant image"
    what = "groups of equal size" if grouped else "images"
    there = f"{check.trials:.1f}" if grouped else f"{check.trials:.0f}"
    return f"{100 * check.limit:.2f} points need {check.needed} {what}, the set is worth {there}"


def findings(frozen: ReferenceSet, model: FrozenModel, change: ModelChange) -> list[str]:
    """The limits, and what else must be known to judge them."""
    found = [check_text(check) for check in change.checks]
    for check in change.checks:
        if text := _too_small(check, change.n_groups is not None):
            found.append(f"no version can meet the limit of {check.name}: {text}")
    found += _trained(frozen, model) + _not_limited(change)
    if model.settings != frozen.model.settings:
        found.append(
            f"settings of the site changed as well: {frozen.model.settings}; now {model.settings}"
        )
    return found


def _trained(frozen: ReferenceSet, model: FrozenModel) -> list[str]:
    """What is known of images of the set that a version was trained on."""
    found = []
    if model.trained is None:
        found.append(
            "whether the new version was trained on images of the set is not known: an exported "
            "file does not hold which images these were"
        )
    if frozen.model.trained:
        found.append(
            f"the old version was trained or chosen on {frozen.model.trained} of "
            f"{len(frozen.images)} images of the set: its answers for them say nothing about new "
            "images"
        )
    return found


def _not_limited(change: ModelChange) -> list[str]:
    """What may be worse although all limits are met."""
    shares = {share.name: share for share in change.shares}
    found = []
    for name, sign in (("specificity", -1), ("unsafe, benign", 1)):
        share = shares.get(name)
        if share is not None and sign * share.difference.value > 0:
            found.append(
                f"{name}: {100 * share.old:.2f} % before, {100 * share.new:.2f} % now; no limit "
                "covers this"
            )
    referred = shares["referred"]
    if referred.new < referred.old:  # also where the interval does not exclude that it is chance
        found.append(
            f"fewer images are referred ({100 * referred.old:.2f} % before, "
            f"{100 * referred.new:.2f} % now): find out why, as referral is what protects from "
            "images that the set does not contain, such as those of another stain or hospital"
        )
    return found
