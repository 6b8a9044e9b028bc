"""What is decided on val: temperature, sets, thresholds, and what goes to a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bcd.config.schema import DecisionConfig
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.calibration import reliability
from bcd.evaluation.collect import Answers, softmax
from bcd.evaluation.conformal import conformal_threshold, prediction_sets
from bcd.evaluation.decision import (
    DISAGREES,
    LOW_CONFIDENCE,
    OOD,
    DecisionPolicy,
    Reasons,
    fit_policy,
)
from bcd.evaluation.ood import find_subspace
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, UNREADABLE
from bcd.evaluation.thresholds import Scope, kept_rank, lower_limit, sensitive_threshold

BENIGN = 0


def answers(n: int, seed: int, sharpness: float = 1.0) -> Answers:
    """Answers that are right as often as `softmax(logits / sharpness)` says.

    Features lie in a ten-dimensional subspace of 160 dimensions, with a little noise.
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
    trained = answers(600, 1).features
    return fit_policy(cfg or DecisionConfig(), answers(1500, 2, sharpness), trained, BENIGN)


def test_overconfident_answers_are_calibrated_and_sets_hold_what_they_promise() -> None:
    policy = decisions()
    assert policy.temperature == pytest.approx(3, rel=0.15)
    test = answers(4000, 3, 3.0)
    before = reliability(softmax(test.logits), test.labels).ece
    probabilities = policy.answer(test.logits, test.features).probabilities
    after = reliability(probabilities, test.labels).ece
    assert after < 0.03 < before
    sets = prediction_sets(probabilities, policy.set_from)
    assert sets[np.arange(len(test.labels)), test.labels].mean() == pytest.approx(0.95, abs=0.02)


def test_the_threshold_is_the_one_that_val_can_promise() -> None:
    val = answers(1500, 2, 3.0)
    ill = val.labels != BENIGN
    for wanted, confidence in ((0.9, 0.9), (0.9, 0.99), (0.995, 0.9)):
        policy = decisions(DecisionConfig(sensitivity=wanted, confidence=confidence))
        scores = np.sort(1 - policy.probabilities(val.logits)[ill, BENIGN])
        rank = kept_rank(int(ill.sum()), wanted, confidence)
        assert rank > 0
        assert policy.malignant_from == scores[rank - 1]
        assert (policy.sensitivity_kept, policy.malignant_units) == (wanted, ill.sum())
    policy = decisions(DecisionConfig(sensitivity=0.9999))
    assert policy.malignant_from == scores[0]
    assert policy.sensitivity_kept == pytest.approx(0.1 ** (1 / ill.sum()))
    no_benign = fit_policy(DecisionConfig(), val, answers(600, 1).features, None)
    assert no_benign.malignant_from is None
    assert no_benign.answer(val.logits, val.features).malignant == [None] * 1500


def test_groups_count_as_one_each_in_every_limit() -> None:
    val, trained = answers(1500, 2, 3.0), answers(600, 1).features
    groups = [str(i % 50) for i in range(1500)]
    cfg = DecisionConfig(sensitivity=0.9, low_confidence=0.1, ood=0.04, coverage=0.9)
    alone = fit_policy(cfg, val, trained, BENIGN)
    grouped = fit_policy(cfg, val, trained, BENIGN, Scope(groups, "new slides"))
    assert (alone.units, grouped.units, grouped.malignant_units) == (1500, 50, 50)
    assert (alone.by_groups, grouped.by_groups) == (False, True)
    # What is usual is what nearly all of 50 groups hold, not what nearly all of 1500 images do.
    p = grouped.probabilities(val.logits)
    found = sensitive_threshold(1 - p[:, BENIGN], val.labels != BENIGN, 0.9, 0.9)
    assert grouped.malignant_from is not None and grouped.malignant_from < found.threshold
    assert grouped.set_from < conformal_threshold(p, val.labels, 0.9).value
    assert grouped.unsure_below < lower_limit(p.max(axis=1), 0.1).value
    assert grouped.subspace is not None and alone.subspace is not None
    assert grouped.subspace.limit > alone.subspace.limit


def test_at_most_as_many_are_referred_on_average_as_was_asked_for() -> None:
    trained, cfg = answers(600, 1).features, DecisionConfig(low_confidence=0.1, ood=0.05)
    test = answers(3000, 3, 3.0)
    shares = []
    for seed in range(10, 40):
        policy = fit_policy(cfg, answers(99, seed, 3.0), trained, None)
        given = policy.answer(test.logits, test.features).reasons
        shares.append([np.mean([name in why for why in given]) for name in (LOW_CONFIDENCE, OOD)])
    stray = 3 * np.std(shares, axis=0) / np.sqrt(len(shares))
    assert np.abs(np.mean(shares, axis=0) - (0.1, 0.05)).tolist() < (stray + 0.01).tolist()


def reasons(policy: DecisionPolicy, logits: list[float], features: np.ndarray) -> Reasons:
    return policy.answer(np.array([logits], np.float32), features).reasons[0]


def test_each_reason_is_named_and_all_that_hold_are() -> None:
    policy, familiar = decisions(), answers(1, 4, 3.0).features
    strange = familiar * 0 + 50
    flat, sure = [0.0] * 4, [0.0, 90.0, 0.0, 0.0]
    assert reasons(policy, sure, familiar) == ()
    # Beside the subspace, however sure the answer is.
    beside = familiar + 2 * np.random.default_rng(0).normal(size=160).astype(np.float32)
    assert reasons(policy, sure, beside) == reasons(policy, sure, strange) == (OOD,)
    assert reasons(policy, flat, familiar) == (LOW_CONFIDENCE, DISAGREES)
    assert reasons(policy, flat, strange) == (LOW_CONFIDENCE, OOD, DISAGREES)
    assert reasons(policy, [float("nan"), *flat[1:]], familiar) == (NOT_FINITE,)
    assert reasons(DecisionPolicy.from_plain(None), sure, strange) == (UNCALIBRATED,)


def test_the_threshold_decides_and_the_most_probable_class_is_heard() -> None:
    features = np.zeros((3, 160), np.float32)
    logits = np.log(np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]]))
    given = DecisionPolicy(malignant_from=0.3, benign=0).answer(logits, features)
    assert given.malignant == [True, False, True]
    assert given.reasons == [(DISAGREES,), (), ()]
    strict = DecisionPolicy(malignant_from=0.95, benign=0).answer(logits, features)
    assert strict.malignant == [False, False, False]
    assert strict.reasons == [(), (), (DISAGREES,)]
    said = given.prediction(0, "a.png", "Benign")
    assert (said.malignant, said.best, said.refer) == (True, 0, (DISAGREES,))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["logits", "features"])
@pytest.mark.parametrize("subspace", [True, False])
def test_what_is_not_finite_is_no_answer(wrong: float, where: str, subspace: bool) -> None:
    policy, test = decisions(), answers(3, 4, 3.0)
    if not subspace:
        policy = replace(policy, subspace=None)
    expected = policy.answer(test.logits, test.features)
    getattr(test, where)[1, 2] = wrong
    given = policy.answer(test.logits, test.features)
    assert given.reasons[1] == (NOT_FINITE,)
    said = given.prediction(1, "a.png")
    assert (said.probabilities, said.best, said.malignant) == ((), None, None)
    for other in (0, 2):
        assert given.prediction(other, "b.png") == expected.prediction(other, "b.png")
    with pytest.raises(BcdError, match="1 of 3 answers are not finite"):
        fit_policy(DecisionConfig(), test, answers(600, 1).features, BENIGN)


def test_training_features_that_are_not_finite_decide_nothing() -> None:
    trained = answers(600, 1).features
    trained[7, 7] = np.nan
    with pytest.raises(BcdError, match="features of training images are not finite"):
        fit_policy(DecisionConfig(), answers(100, 2), trained, BENIGN)


def test_a_policy_without_decisions_refers_everything_and_calls_nothing_malignant() -> None:
    test = answers(50, 5)
    given = DecisionPolicy.from_plain(None).answer(test.logits, test.features)
    assert set(given.reasons) == {(UNCALIBRATED,)}
    assert set(given.malignant) == {None}
    np.testing.assert_allclose(given.probabilities, softmax(test.logits), rtol=1e-6)
    assert DecisionPolicy.from_plain(None).unread("a", "gone").refer == (UNREADABLE, UNCALIBRATED)
    assert decisions().unread("a", "gone").refer == (UNREADABLE,)


def test_nothing_is_referred_for_what_is_switched_off() -> None:
    policy, test = decisions(DecisionConfig(low_confidence=0, ood=0)), answers(300, 6, 3.0)
    given = policy.answer(test.logits * 0, test.features + 50)
    assert {name for why in given.reasons for name in why} <= {DISAGREES}


def test_it_survives_a_checkpoint_that_runs_no_code(tmp_path: Path) -> None:
    policy, test = decisions(), answers(300, 6, 3.0)
    torch.save({"policy": policy.to_plain()}, tmp_path / "a.pt")
    plain = torch.load(tmp_path / "a.pt", weights_only=True)["policy"]
    again = DecisionPolicy.from_plain(plain)
    one, other = (j.answer(test.logits, test.features) for j in (policy, again))
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert (one.reasons, one.malignant) == (other.reasons, other.malignant)
    assert replace(again, subspace=None) == replace(policy, subspace=None)


def test_the_subspace_is_the_same_twice_and_absent_without_features() -> None:
    features = answers(600, 1).features
    first, second = find_subspace(features), find_subspace(features)
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.basis, second.basis)
    np.testing.assert_allclose(first.basis @ first.basis.T, np.eye(len(first.basis)), atol=1e-4)
    assert np.median(first.distance(features)) < 3  # the noise is 0.1 in 150 directions
    assert find_subspace(np.zeros((0, 160), np.float32)) is None
    assert find_subspace(np.zeros((40, 4), np.float32)) is None


def test_wrong_wishes_are_wrong_use() -> None:
    wrongs = (
        {"coverage": 1.0},
        {"sensitivity": 1.5},
        {"confidence": 1.0},
        {"low_confidence": -0.1},
    )
    for wrong in (*wrongs, {"ood": 2.0}):
        with pytest.raises(ConfigError, match=r"decision\."):
            DecisionConfig(**wrong)
