"""What a policy says is expected of new answers is what new answers are like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstwo

from bcd.config.compose import with_defaults
from bcd.config.decision import DecisionConfig
from bcd.evaluation.bootstrap import effective_groups
from bcd.evaluation.decision import DecisionPolicy, referred
from bcd.evaluation.expectation import Expectation
from bcd.evaluation.ood import fit_detector
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.recalibration import refit
from bcd.evaluation.thresholds import INDEPENDENT_IMAGES, Scope
from tests.evaluation.test_decision import BENIGN, answers

VAL = 800


def fitted(scope: Scope = INDEPENDENT_IMAGES) -> DecisionPolicy:
    train, val = answers(800, 1, 3.0), answers(VAL, 2, 3.0)
    detector = fit_detector(np.concatenate([train.descriptors, val.descriptors]), 0.02)
    return fit_policy(with_defaults(DecisionConfig), val, detector, BENIGN, scope)


def expected(policy: DecisionPolicy) -> Expectation:
    assert policy.expectation is not None
    return Expectation.from_plain(policy.expectation)


def test_new_images_are_referred_and_score_as_expected() -> None:
    policy = fitted()
    new = answers(4000, 3, 3.0)
    found, known = policy.answer(new.logits, new.descriptors), expected(policy)
    share = float(referred(found.reasons).mean())
    deviation = (share * (1 - share) / VAL) ** 0.5
    assert known.n == VAL
    assert known.referred == pytest.approx(share, abs=3 * deviation)
    scores = np.sort(policy.ood_score(new.descriptors))
    places = np.searchsorted(scores, known.scores) / len(scores)
    difference = np.abs(places - np.linspace(0, 1, len(known.scores))).max()
    assert difference < kstwo.isf(0.001, VAL)


def test_without_cross_fitted_distances_nothing_is_expected() -> None:
    val = answers(VAL, 2, 3.0)
    detector = fit_detector(val.descriptors, 0.02)
    assert detector is not None
    cfg = with_defaults(DecisionConfig)
    assert fit_policy(cfg, val, replace(detector, own=None), BENIGN).expectation is None
    without = fit_policy(cfg, val, None, BENIGN)
    assert expected(without).scores == () and expected(without).referred > 0


def test_images_of_groups_are_worth_fewer() -> None:
    groups = [str(i // 10 if i < 400 else i) for i in range(VAL)]
    found = expected(fitted(Scope(groups, "new slides"))).n
    assert found == effective_groups(groups) and found < VAL


def test_a_recalibrated_policy_expects_nothing_and_an_older_one_is_read() -> None:
    policy = fitted()
    assert refit(policy, answers(300, 4, 3.0), BENIGN, INDEPENDENT_IMAGES).expectation is None
    plain = policy.to_plain()
    assert DecisionPolicy.from_plain(plain).expectation == policy.expectation
    del plain["expectation"]
    assert DecisionPolicy.from_plain(plain).expectation is None
