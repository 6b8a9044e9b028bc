"""Out-of-fold decisions: no decision about an image has used its label, and one budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.decision import DecisionConfig
from bcd.evaluation.decision import LOW_CONFIDENCE, MEMBERS_DISAGREE, OOD, referred
from bcd.evaluation.out_of_fold import CrossFittedPolicy, MemberAnswers, fit_release
from bcd.evaluation.referral_budget import fit_limits
from bcd.evaluation.thresholds import Scope

FOLDS, N = 4, 400
NAMES = [str(i // 5) for i in range(N)]
SCOPE = Scope(NAMES, "an image of a new group")


def given(seed: int = 0) -> MemberAnswers:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, N // 5).repeat(5)
    folds = np.arange(N // 5).repeat(5) % FOLDS
    logits = rng.normal(size=(FOLDS, N, 4)).astype(np.float32)
    logits[:, np.arange(N), labels] += rng.normal(3, 1.5, size=(FOLDS, N)).astype(np.float32)
    descriptors = rng.normal(size=(N, 24)).astype(np.float32)
    groups = np.arange(N // 5).repeat(5)
    validated = np.stack([(folds != k) & ((groups + k) % 7 < 2) for k in range(FOLDS)])
    return MemberAnswers(logits, folds, descriptors, labels, validated)


def fitted(of: MemberAnswers, refer: float = 0.05) -> CrossFittedPolicy:
    return fit_release(with_defaults(DecisionConfig), refer, of, 0, SCOPE)[1]


def test_each_image_has_the_answer_of_the_member_of_its_fold() -> None:
    of = given()
    answers = of.out_of_fold(2.0)
    assert answers.disagreement is not None and of.validated is not None
    for i in range(0, N, 3):
        assert np.array_equal(answers.logits[i], of.logits[of.folds[i], i])
        p = np.exp(of.logits[:, i] / 2.0)
        p /= p.sum(axis=1, keepdims=True)
        others = np.flatnonzero(of.validated[:, i])
        apart = [np.abs(p[k] - p[of.folds[i]]).sum() / 2 for k in others]
        wanted = np.mean(apart) if apart else np.nan
        assert answers.disagreement[i] == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert 0.2 < np.isnan(answers.disagreement).mean() < 0.8


def test_members_that_were_trained_on_an_image_have_no_part_in_its_disagreement() -> None:
    """They know its label: compared with them, wrong answers would stand out."""
    of = given()
    before = of.out_of_fold(1.0).disagreement
    assert of.validated is not None
    trained = ~of.validated & (np.arange(FOLDS)[:, None] != of.folds)
    logits = of.logits.copy()
    logits[trained] = (50 * np.eye(4)[of.labels])[None].repeat(FOLDS, axis=0)[trained]
    after = replace(of, logits=logits).out_of_fold(1.0).disagreement
    assert before is not None and after is not None
    assert np.array_equal(before, after, equal_nan=True)


def test_decisions_about_a_fold_do_not_depend_on_its_labels_or_answers() -> None:
    of = given()
    before = fitted(of)
    rows = of.folds == 2
    labels, logits, descriptors = of.labels.copy(), of.logits.copy(), of.descriptors.copy()
    labels[rows] = (labels[rows] + 1) % 4
    logits[:, rows] = logits[:, rows][..., ::-1]
    descriptors[rows] += 5
    after = fitted(MemberAnswers(logits, of.folds, descriptors, labels, of.validated))
    one, other = before.parts[2], after.parts[2]
    for name in (
        "temperature", "set_threshold", "malignant_threshold", "confidence_threshold",
        "disagreement_limit",
    ):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name
    assert one.subspace is not None and other.subspace is not None
    assert np.array_equal(one.subspace.basis, other.subspace.basis)
    assert one.subspace.limit == other.subspace.limit
    assert before.temperature != after.temperature  # that of all images does


def test_each_image_is_decided_by_the_policy_of_its_fold() -> None:
    of = given()
    policy = fitted(of)
    answers = of.cross_fitted(policy)
    for fold, part in enumerate(policy.parts):
        own, wanted = of.folds == fold, of.out_of_fold(part.temperature).disagreement
        assert answers.disagreement is not None and wanted is not None
        assert np.array_equal(answers.disagreement[own], wanted[own], equal_nan=True)
    found = policy.answer(answers.logits, answers.descriptors, answers.disagreement)
    for fold in range(FOLDS):
        rows = np.flatnonzero(of.folds == fold)
        own = answers[rows]
        expected = policy.parts[fold].answer(own.logits, own.descriptors, own.disagreement)
        assert np.array_equal(found.probabilities[rows], expected.probabilities)
        assert [found.reasons[i] for i in rows] == expected.reasons
        assert [found.malignant[i] for i in rows] == expected.malignant
    assert policy.sets(found.probabilities).shape == (N, 4)


def test_without_prior_correction_all_parts_are_without_it() -> None:
    cfg = replace(with_defaults(DecisionConfig), prior_correction=True)
    of = given()
    policy = fit_release(cfg, 0.05, of, 0, SCOPE)[1]
    assert policy.priors is not None and all(part.priors is not None for part in policy.parts)
    plain = policy.without_priors()
    assert plain.priors is None and all(part.priors is None for part in plain.parts)


@pytest.mark.parametrize("refer", [0.02, 0.05, 0.2])
def test_all_reasons_together_refer_the_share_that_was_asked_for(refer: float) -> None:
    rng = np.random.default_rng(0)
    confidence, distance, differ = rng.random((3, 2000))
    nobody = np.zeros(2000, bool)
    limits = fit_limits(refer, confidence, distance, differ, nobody)
    by_reason = [
        confidence < limits.confidence, distance > limits.distance, differ > limits.disagreement
    ]  # fmt: skip
    assert np.any(by_reason, axis=0).mean() == pytest.approx(refer, abs=0.002)
    # No reason is preferred.
    for one in by_reason:
        assert one.mean() == pytest.approx(refer / 3, abs=0.4 * refer / 3)


def test_a_disagreement_known_of_some_images_counts_for_all() -> None:
    rng = np.random.default_rng(0)
    confidence, distance, differ = rng.random((3, 4000))
    known = np.arange(4000) % 3 == 0
    nobody = np.zeros(4000, bool)
    limits = fit_limits(0.06, confidence, distance, np.where(known, differ, np.nan), nobody)
    beyond = (confidence < limits.confidence) | (distance > limits.distance)
    beyond |= differ > limits.disagreement  # as of new images, of all of them
    assert beyond.mean() == pytest.approx(0.06, abs=0.006)


def test_images_that_are_referred_anyway_count_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    confidence, distance, differ = rng.random((3, 2000))
    forced = np.arange(2000) < 60  # 3 %
    limits = fit_limits(0.05, confidence, distance, differ, forced)
    others = (confidence < limits.confidence) | (distance > limits.distance)
    others |= differ > limits.disagreement
    assert (forced | others).mean() == pytest.approx(0.05, abs=0.002)
    beyond = fit_limits(0.02, confidence, distance, differ, forced)
    assert not (confidence < beyond.confidence).any()
    assert not (distance > beyond.distance).any() and not (differ > beyond.disagreement).any()


def test_each_group_has_the_same_weight_in_the_budget() -> None:
    """A large group of unusual images does not use up the budget of the others."""
    rng = np.random.default_rng(0)
    groups = ["large"] * 1000 + [f"{i}" for i in range(999)]
    distance = rng.random(1999)
    distance[:1000] += 10
    usual = np.ones(1999)
    limits = fit_limits(0.05, usual, distance, np.zeros(1999), np.zeros(1999, bool), groups)
    small = distance[1000:]
    assert (small > limits.distance).mean() == pytest.approx(0.05, abs=0.005)


def test_no_budget_refers_nothing() -> None:
    of = given()
    policy, answers = fitted(of, 0.0), of.out_of_fold(1.0)
    reasons = policy.answer(answers.logits, answers.descriptors, answers.disagreement).reasons
    limited = {LOW_CONFIDENCE, OOD, MEMBERS_DISAGREE}
    assert not any(limited & set(why) for why in reasons)
    assert referred(reasons).mean() < 0.5


def test_the_disagreement_of_members_is_a_reason() -> None:
    of = given()
    policy = replace(fitted(of).parts[0], disagreement_limit=0.5, confidence_threshold=0.0)
    answers = of.out_of_fold(1.0)
    far = np.full(N, 0.6)
    near = policy.answer(answers.logits, answers.descriptors, far - 0.2).reasons
    assert all(MEMBERS_DISAGREE not in why for why in near)
    apart = policy.answer(answers.logits, answers.descriptors, far).reasons
    assert all(MEMBERS_DISAGREE in why for why in apart)
