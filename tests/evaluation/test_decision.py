"""What is fitted on val: temperature, sets, thresholds and referral."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.decision import DecisionConfig
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.answers import Answers, softmax
from bcd.evaluation.calibration import reliability
from bcd.evaluation.conformal import conformal_threshold, prediction_sets
from bcd.evaluation.decision import (
    DISAGREES,
    LOW_CONFIDENCE,
    OOD,
    UNDECIDED,
    DecisionPolicy,
    Reasons,
)
from bcd.evaluation.ood import Subspace, fit_detector
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, UNREADABLE
from bcd.evaluation.thresholds import Scope, lower_limit, threshold_for_sensitivity, threshold_rank

BENIGN = 0


def answers(n: int, seed: int, sharpness: float = 1.0) -> Answers:
    """Outputs that are correct with the probabilities `softmax(logits / sharpness)`.

    Descriptors lie in a ten-dimensional subspace of 160 dimensions, with a little noise.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, (n, 4))
    truth = np.array([rng.choice(4, p=p) for p in softmax(logits)])
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(160, 10)))[0].T
    features = rng.normal(0, 3, (n, 10)) @ basis + rng.normal(0, 0.1, (n, 160))
    return Answers(
        (logits * sharpness).astype(np.float32), features.astype(np.float32), truth.astype(np.int64)
    )


def decisions(cfg: DecisionConfig | None = None, sharpness: float = 3.0) -> DecisionPolicy:
    cfg = cfg or with_defaults(DecisionConfig)
    return fit_policy(cfg, answers(1500, 2, sharpness), detector(cfg.ood), BENIGN)


def detector(share: float = 0.02) -> Subspace | None:
    return fit_detector(answers(600, 1).descriptors, share)


def test_overconfident_outputs_are_calibrated_and_sets_keep_their_guarantee() -> None:
    policy = decisions()
    assert policy.temperature == pytest.approx(3, rel=0.15)
    test = answers(4000, 3, 3.0)
    before = reliability(softmax(test.logits), test.labels).ece
    probabilities = policy.answer(test.logits, test.descriptors).probabilities
    after = reliability(probabilities, test.labels).ece
    assert after < 0.03 < before
    sets = prediction_sets(probabilities, policy.set_threshold)
    assert sets[np.arange(len(test.labels)), test.labels].mean() == pytest.approx(0.95, abs=0.02)


def test_the_threshold_is_the_one_that_val_can_guarantee() -> None:
    val = answers(1500, 2, 3.0)
    ill = val.labels != BENIGN
    for wanted, confidence in ((0.9, 0.9), (0.9, 0.99), (0.995, 0.9)):
        policy = decisions(with_defaults(DecisionConfig, sensitivity=wanted, confidence=confidence))
        scores = np.sort(1 - policy.probabilities(val.logits)[ill, BENIGN])
        rank = threshold_rank(int(ill.sum()), wanted, confidence)
        assert rank > 0
        assert policy.malignant_threshold == scores[rank - 1]
        assert (policy.guaranteed_sensitivity, policy.n_malignant_units) == (wanted, ill.sum())
    policy = decisions(with_defaults(DecisionConfig, sensitivity=0.9999))
    assert policy.malignant_threshold == scores[0]
    assert policy.guaranteed_sensitivity == pytest.approx(0.1 ** (1 / ill.sum()))
    no_benign = fit_policy(with_defaults(DecisionConfig), val, None, None)
    assert no_benign.malignant_threshold is None
    assert no_benign.answer(val.logits, val.descriptors).malignant == [None] * 1500


def test_groups_count_as_one_each_in_every_limit() -> None:
    val = answers(1500, 2, 3.0)
    groups = [str(i % 50) for i in range(1500)]
    cfg = with_defaults(DecisionConfig, sensitivity=0.9, low_confidence=0.1, coverage=0.9)
    alone = fit_policy(cfg, val, None, BENIGN)
    grouped = fit_policy(cfg, val, None, BENIGN, Scope(groups, "new slides"))
    assert (alone.n_units, grouped.n_units, grouped.n_malignant_units) == (1500, 50, 50)
    assert (alone.by_groups, grouped.by_groups) == (False, True)
    # What is usual is what nearly all of 50 groups hold, not what nearly all of 1500 images do.
    p = grouped.probabilities(val.logits)
    found = threshold_for_sensitivity(1 - p[:, BENIGN], val.labels != BENIGN, 0.9, 0.9)
    assert grouped.malignant_threshold is not None and grouped.malignant_threshold < found.threshold
    assert grouped.set_threshold < conformal_threshold(p, val.labels, 0.9).value
    assert grouped.confidence_threshold < lower_limit(p.max(axis=1), 0.1).value


def test_the_requested_share_is_referred_on_average() -> None:
    cfg = with_defaults(DecisionConfig, low_confidence=0.1)
    test = answers(3000, 3, 3.0)
    shares = []
    for seed in range(10, 40):
        policy = fit_policy(cfg, answers(99, seed, 3.0), None, None)
        given = policy.answer(test.logits, test.descriptors).reasons
        shares.append(np.mean([LOW_CONFIDENCE in why for why in given]))
    stray = 3 * np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - 0.1) < stray + 0.01


def reasons(policy: DecisionPolicy, logits: list[float], features: np.ndarray) -> Reasons:
    return policy.answer(np.array([logits], np.float32), features).reasons[0]


def test_all_reasons_that_apply_are_named() -> None:
    policy, familiar = decisions(), answers(1, 4, 3.0).descriptors
    strange = familiar * 0 + 50
    flat, sure = [0.0] * 4, [0.0, 90.0, 0.0, 0.0]
    assert reasons(policy, sure, familiar) == ()
    # Beside the subspace, however sure the answer is.
    beside = familiar + 2 * np.random.default_rng(0).normal(size=160).astype(np.float32)
    assert reasons(policy, sure, beside) == reasons(policy, sure, strange) == (OOD,)
    assert reasons(policy, flat, familiar) == (LOW_CONFIDENCE, UNDECIDED, DISAGREES)
    assert reasons(policy, flat, strange) == (LOW_CONFIDENCE, UNDECIDED, OOD, DISAGREES)
    assert reasons(policy, [float("nan"), *flat[1:]], familiar) == (NOT_FINITE,)
    assert reasons(DecisionPolicy.from_plain(None), sure, strange) == (UNCALIBRATED,)


def test_the_threshold_decides_and_disagreement_with_the_most_probable_class_is_a_reason() -> None:
    features = np.zeros((3, 160), np.float32)
    logits = np.log(np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]]))
    given = DecisionPolicy(malignant_threshold=0.3, benign=0).answer(logits, features)
    assert given.malignant == [True, False, True]
    assert given.reasons == [(DISAGREES,), (), ()]
    strict = DecisionPolicy(malignant_threshold=0.95, benign=0).answer(logits, features)
    assert strict.malignant == [False, False, False]
    assert strict.reasons == [(), (), (DISAGREES,)]
    predicted = given.prediction(0, "a.png", "Benign")
    assert (predicted.malignant, predicted.best, predicted.refer) == (True, 0, (DISAGREES,))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["logits", "descriptors"])
@pytest.mark.parametrize("subspace", [True, False])
def test_outputs_that_are_not_finite_give_no_prediction(
    wrong: float, where: str, subspace: bool
) -> None:
    policy, test = decisions(), answers(3, 4, 3.0)
    if not subspace:
        policy = replace(policy, subspace=None)
    expected = policy.answer(test.logits, test.descriptors)
    getattr(test, where)[1, 2] = wrong
    given = policy.answer(test.logits, test.descriptors)
    assert given.reasons[1] == (NOT_FINITE,)
    predicted = given.prediction(1, "a.png")
    assert (predicted.probabilities, predicted.best, predicted.malignant) == ((), None, None)
    for other in (0, 2):
        assert given.prediction(other, "b.png") == expected.prediction(other, "b.png")
    with pytest.raises(BcdError, match="1 of 3 outputs are not finite"):
        fit_policy(with_defaults(DecisionConfig), test, None, BENIGN)


def test_a_policy_without_decisions_refers_everything_and_calls_nothing_malignant() -> None:
    test = answers(50, 5)
    given = DecisionPolicy.from_plain(None).answer(test.logits, test.descriptors)
    assert set(given.reasons) == {(UNCALIBRATED,)}
    assert set(given.malignant) == {None}
    np.testing.assert_allclose(given.probabilities, softmax(test.logits), rtol=1e-6)
    assert DecisionPolicy.from_plain(None).unread("a", "gone").refer == (UNREADABLE, UNCALIBRATED)
    assert decisions().unread("a", "gone").refer == (UNREADABLE,)


def test_a_disabled_rule_refers_nothing() -> None:
    policy, test = (
        decisions(with_defaults(DecisionConfig, low_confidence=0, ood=0)),
        answers(300, 6, 3.0),
    )
    given = policy.answer(test.logits * 1e-3, test.descriptors + 50)
    assert {name for why in given.reasons for name in why} <= {DISAGREES}
    unknown = policy.answer(test.logits * 0, test.descriptors)
    assert all(UNDECIDED in why for why in unknown.reasons)
    corrected = replace(policy, priors=(0.7, 0.1, 0.1, 0.1))
    unknown = corrected.answer(test.logits * 0, test.descriptors)
    assert np.ptp(unknown.probabilities[0]) > 0.2
    assert all(UNDECIDED in why for why in unknown.reasons)
    known = corrected.answer(test.logits, test.descriptors)
    assert not any(UNDECIDED in why for why in known.reasons)


def test_the_policy_survives_a_weights_only_checkpoint(tmp_path: Path) -> None:
    policy, test = decisions(), answers(300, 6, 3.0)
    torch.save({"policy": policy.to_plain()}, tmp_path / "a.pt")
    plain = torch.load(tmp_path / "a.pt", weights_only=True)["policy"]
    again = DecisionPolicy.from_plain(plain)
    one, other = (j.answer(test.logits, test.descriptors) for j in (policy, again))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert (one.reasons, one.malignant) == (other.reasons, other.malignant)
    assert replace(again, subspace=None) == replace(policy, subspace=None)


def test_invalid_values_of_the_decision_group_are_rejected() -> None:
    wrongs = (
        {"coverage": 1.0},
        {"sensitivity": 1.5},
        {"confidence": 1.0},
        {"low_confidence": -0.1},
    )
    for wrong in (*wrongs, {"ood": 2.0}):
        with pytest.raises(ConfigError, match=r"decision\."):
            with_defaults(DecisionConfig, **wrong)
