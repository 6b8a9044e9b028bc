"""Fits the decision policy to outputs for images that the model was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bcd.config.decision import DecisionConfig
from bcd.evaluation.answers import Answers, check_finite
from bcd.evaluation.bootstrap import Groups, effective_groups
from bcd.evaluation.calibration import calibrated_probabilities, check_priors, fit_temperature
from bcd.evaluation.conformal import conformal_threshold
from bcd.evaluation.decision import DecisionPolicy, Floats, p_malignant
from bcd.evaluation.expectation import expect
from bcd.evaluation.ood import Subspace
from bcd.evaluation.thresholds import (
    INDEPENDENT_IMAGES,
    Scope,
    lower_limit,
    threshold_for_sensitivity,
)


def fit_policy(
    cfg: DecisionConfig,
    val: Answers,
    detector: Subspace | None,
    benign: int | None,
    scope: Scope = INDEPENDENT_IMAGES,
    shares: Sequence[float] = (),
) -> DecisionPolicy:
    """Fits the decision policy on val.

    Args:
        cfg: The `decision` group.
        val: Outputs for the val set.
        detector: Of out-of-distribution images, from `fit_detector`, where the images of val are
            the last; None if there is none.
        benign: Index of the benign class; None if there is none.
        scope: Groups of val that count as one image each, and the population of the guarantees.
        shares: Class shares of train, (classes,). With `cfg.prior_correction` probabilities are
            divided by them after the temperature was fitted, and limits are fitted to the result.

    Raises:
        BcdError: An output is not finite.
        ValueError: `shares` cannot be divided by.
    """
    check_finite(val)
    priors = check_priors(shares, val.logits.shape[1]) if cfg.prior_correction else None
    groups = scope.groups
    temperature = fit_temperature(val.logits, val.labels, effective_groups(groups))
    probabilities = calibrated_probabilities(val.logits, temperature, priors)
    sets = conformal_threshold(probabilities, val.labels, cfg.coverage, groups)
    fitted: dict[str, Any] = {}
    if benign is not None:
        found = threshold_for_sensitivity(
            p_malignant(probabilities, benign), val.labels != benign, cfg.sensitivity,
            cfg.confidence, groups,
        )  # fmt: skip
        fitted = found.policy_fields()
    policy = DecisionPolicy(
        temperature=temperature,
        priors=priors,
        set_threshold=sets.value,
        target_coverage=cfg.coverage,
        guaranteed_coverage=1 - sets.share,
        benign=benign,
        target_sensitivity=cfg.sensitivity,
        confidence=cfg.confidence,
        n_units=sets.n_units,
        by_groups=groups is not None,
        by_overlaps=scope.by_overlaps,
        population=scope.population,
        confidence_threshold=_referral_limit(probabilities.max(axis=1), cfg.low_confidence, groups),
        subspace=detector,
        prevalence=cfg.prevalence,
        **fitted,
    )
    return replace(policy, expectation=_expected(policy, probabilities, val, groups))


def _expected(
    policy: DecisionPolicy, probabilities: Floats, val: Answers, groups: Groups | None
) -> dict[str, Any] | None:
    """What is expected of new answers; None where distances were not cross-fitted."""
    scores = np.zeros(len(val.labels))
    if policy.subspace is not None:
        own = policy.subspace.own
        if own is None or len(own) < len(scores):
            return None
        scores = own[len(own) - len(scores) :] / max(policy.subspace.limit, 1e-12)
    return expect(policy, probabilities, scores, val.disagreement, groups).to_plain()


def _referral_limit(scores: Floats, share: float, groups: Groups | None) -> float:
    """Score below which an image is referred; minus infinity if none is to be."""
    return lower_limit(scores, share, groups).value if share > 0 else -np.inf
