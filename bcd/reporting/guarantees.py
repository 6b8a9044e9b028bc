"""Sentences on a decision policy and its guarantees, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.thresholds import units_needed
from bcd.reporting.results import metric_text


def val_reuse_note(epoch: bool) -> str:
    """States what else val was used for, and what that means for the guarantees.

    Args:
        epoch: Whether the epoch was selected on val.
    """
    if not epoch:
        return (
            "The temperature was also fitted on val, so the guarantees hold strictly only for a "
            "temperature fixed beforehand."
        )
    return (
        "The epoch and the temperature were also selected on val, so the guarantees hold strictly "
        "only for an epoch and a temperature fixed beforehand. In simulations with five epochs to "
        "select from, up to 15 % of val sets missed the target where 10 % were allowed."
    )


OUT_OF_FOLD_ANSWERS = "the out-of-fold answers"


def source_of(recalibration: Mapping[str, Any] | None, released: bool = False) -> str:
    """The images that a decision policy was fitted on, to follow "of".

    Args:
        recalibration: As in the card of the checkpoint.
        released: Whether the checkpoint is a release.
    """
    if recalibration is not None:
        return f"the labels of {recalibration['site']}"
    return OUT_OF_FOLD_ANSWERS if released else "val"


def guarantee_lines(
    policy: DecisionPolicy, source: str = "val", sites: Sequence[str] = ()
) -> list[str]:
    """The guarantees of the threshold and the prediction sets, one line each, or a warning.

    Args:
        policy: The decision policy.
        source: The images it was fitted on, from `source_of`.
        sites: Names of other sites, for which nothing is guaranteed.
    """
    if not policy.calibrated:
        return ["warning: uncalibrated: no decision policy was fitted, so every image is referred"]
    if sites:
        only = "only images of the training images' source; not established for"
        policy = replace(policy, population=f"{policy.population}; {only} {', '.join(sites)}")
    lines = (threshold_guarantee(policy, source), sets_guarantee(policy, source))
    return [line for line in lines if line]


def threshold_guarantee(policy: DecisionPolicy, source: str = "val") -> str:
    """The guarantee of the threshold for malignancy; empty if there is no threshold."""
    if policy.malignant_threshold is None:
        return ""
    if policy.n_malignant_units == 0:
        return (
            "Threshold: val has no malignant image, so every image is called malignant, without a "
            "guarantee."
        )
    units = _counted(policy.n_malignant_units, "malignant", policy)
    line = (
        f"Threshold: an image is called malignant from a probability of "
        f"{policy.malignant_threshold:.4g}; sensitivity at least "
        f"{_at_least(policy.guaranteed_sensitivity)} with confidence "
        f"{_at_least(policy.confidence)} (from {units}{',' * policy.by_overlaps} of {source}"
    )
    if policy.guaranteed_sensitivity < policy.target_sensitivity:
        needed = units_needed(policy.target_sensitivity, policy.confidence)
        enough = "cannot be guaranteed" if needed is None else f"would need {needed}"
        line += f"; the target of {policy.target_sensitivity * 100:.4g}% {enough}"
    return f"{line}). Applies to {policy.population}."


def sets_guarantee(policy: DecisionPolicy, source: str = "val") -> str:
    """The guarantee of the prediction sets."""
    if policy.set_threshold <= 0 and policy.guaranteed_coverage >= 1:
        return (
            "Prediction sets contain every class, because some labels are only known to be "
            "malignant."
        )
    units = _counted(policy.n_units, "", policy)
    missed = policy.guaranteed_coverage < policy.target_coverage - 1e-9
    target = f"; the target is {policy.target_coverage:.1%}" if missed else ""
    return (
        f"Prediction sets: at least {_at_least(policy.guaranteed_coverage)} contain the true "
        f"class, on average over sets drawn like {source} (from {units}{target}). Applies to "
        f"{policy.population}."
    )


def referral_rules(policy: DecisionPolicy, source: str = "val") -> str:
    """States when an image is referred.

    Args:
        policy: The decision policy.
        source: The images that its limits were fitted on.
    """
    rules = []
    if math.isfinite(policy.confidence_threshold):
        rules.append(f"its highest probability is below {policy.confidence_threshold:.3f}")
    if policy.subspace is not None and math.isfinite(policy.subspace.limit):
        rules.append("it is out of distribution")
    if policy.malignant_threshold is not None:
        rules.append("the threshold and the most probable class disagree")
    if math.isfinite(policy.disagreement_limit):
        rules.append("the members of the model disagree")
    known = ", that of the distribution on train and val, without training" * (source == "val")
    if not rules:
        return "Only images without a usable prediction are referred."
    return (
        f"An image is referred if {', or if '.join(rules)}; it can have several reasons. Limits "
        f"were fitted on {source}{known}."
    )


def unsafe_line(metrics: Mapping[str, Any]) -> str:
    """States the unsafe answers on test; empty if there are no malignant and no benign images."""
    counted = [
        f"{metrics[f'n_unsafe_{true}']} of {metrics[f'n_{true}']} {true} images are called "
        f"{called} and not referred: {metric_text(metrics, f'unsafe_{true}')}"
        for true, called in (("malignant", "benign"), ("benign", "malignant"))
        if metrics.get(f"unsafe_{true}") is not None
    ]
    return f"Unsafe answers on test: {'; '.join(counted)}." if counted else ""


def prior_correction_line(
    policy: DecisionPolicy, classes: Sequence[str], metrics: Mapping[str, Any]
) -> str:
    """States that prior correction was used and what it changed; empty if it was not."""
    if policy.priors is None:
        return ""
    shares = ", ".join(f"{n} {p:.3f}" for n, p in zip(classes, policy.priors, strict=True))
    before = metrics["without_prior_correction"]
    changes = [
        f"{title} {metric_text(metrics, name)}, without correction {metric_text(before, name)}"
        for name, title in _CHANGED.items()
        if before.get(name) is not None
    ]
    return (
        "Prior correction: after the temperature, probabilities are divided by the class shares of "
        f"train ({shares}) and renormalized, as if all classes were equally frequent, so they are "
        f"not calibrated to classes as frequent as these. {'; '.join(changes)}."
    )


_CHANGED = {
    "balanced_accuracy": "Balanced accuracy",
    "malignant_sensitivity": "malignant sensitivity of the most probable class",
}


def _at_least(share: float) -> str:
    """A share in percent, rounded down: a guarantee must not be rounded up."""
    return f"{math.floor(share * 1000 + 1e-6) / 10:.1f}%"


def _counted(n: int, kind: str, policy: DecisionPolicy) -> str:
    grouped = policy.by_groups and not policy.by_overlaps
    name = f"{kind} {'group' if grouped else 'image'}".strip()
    how = ", those that overlap counted once" * policy.by_overlaps
    return f"{n} {name}" + ("" if n == 1 else "s") + how
