"""What is decided on val: temperature, sets, thresholds, and what goes to a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bcd.config import JudgeConfig
from bcd.errors import ConfigError
from bcd.evaluation.calibration import reliability
from bcd.evaluation.collect import Answers, softmax
from bcd.evaluation.conformal import prediction_sets
from bcd.evaluation.judge import UNLIKE, UNSURE, Judge, find_subspace, fit_judge

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


def judged(cfg: JudgeConfig | None = None, sharpness: float = 3.0) -> Judge:
    trained = answers(600, 1).features
    return fit_judge(cfg or JudgeConfig(), answers(1500, 2, sharpness), trained, BENIGN)


def test_overconfident_answers_are_calibrated_and_sets_hold_what_they_promise() -> None:
    judge = judged()
    assert judge.temperature == pytest.approx(3, rel=0.15)
    test = answers(4000, 3, 3.0)
    before = reliability(softmax(test.logits), test.labels).ece
    probabilities, _ = judge.answer(test.logits, test.features)
    after = reliability(probabilities, test.labels).ece
    assert after < 0.03 < before
    sets = prediction_sets(probabilities, judge.set_from)
    assert sets[np.arange(len(test.labels)), test.labels].mean() == pytest.approx(0.95, abs=0.02)


def test_the_threshold_reaches_the_wanted_sensitivity_on_val() -> None:
    val = answers(1500, 2, 3.0)
    for wanted in (0.9, 0.995):
        judge = judged(JudgeConfig(sensitivity=wanted))
        assert judge.malignant_from is not None
        ill = 1 - judge.probabilities(val.logits)[:, BENIGN]
        called = ill[val.labels != BENIGN] >= judge.malignant_from
        assert wanted <= called.mean() < wanted + 0.01
    no_benign = fit_judge(JudgeConfig(), val, answers(600, 1).features, None)
    assert no_benign.malignant_from is None


def test_as_many_are_referred_as_was_asked_for_and_each_with_its_reason() -> None:
    cfg = JudgeConfig(unsure=0.1, unlike=0.04)
    judge, test = judged(cfg), answers(4000, 4, 3.0)
    _, reasons = judge.answer(test.logits, test.features)
    assert reasons.count(UNLIKE) / 4000 == pytest.approx(0.04, abs=0.02)
    assert reasons.count(UNSURE) / 4000 == pytest.approx(0.1, abs=0.03)
    sure = np.array([[9.0, 0, 0, 0]])
    familiar = test.features[:1]
    assert judge.answer(sure * 9, familiar)[1] == [""]
    assert judge.answer(sure * 0, familiar)[1] == [UNSURE]
    # Beside the subspace, however sure the answer is.
    beside = familiar + 2 * np.random.default_rng(0).normal(size=160).astype(np.float32)
    assert judge.answer(sure * 9, beside)[1] == [UNLIKE]
    assert judge.answer(sure * 9, familiar * 0 + 50)[1] == [UNLIKE]


def test_a_judge_without_decisions_refers_nothing() -> None:
    test = answers(50, 5)
    probabilities, reasons = Judge().answer(test.logits, test.features)
    assert set(reasons) == {""}
    np.testing.assert_allclose(probabilities, softmax(test.logits), rtol=1e-6)
    assert Judge.from_plain(None) == Judge()


def test_it_survives_a_checkpoint_that_runs_no_code(tmp_path: Path) -> None:
    judge, test = judged(), answers(300, 6, 3.0)
    torch.save({"judge": judge.to_plain()}, tmp_path / "a.pt")
    plain = torch.load(tmp_path / "a.pt", weights_only=True)["judge"]
    again = Judge.from_plain(plain)
    for one, other in zip(
        judge.answer(test.logits, test.features), again.answer(test.logits, test.features),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, other)
    assert (again.malignant_from, again.set_from) == (judge.malignant_from, judge.set_from)


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
    for wrong in ({"coverage": 1.0}, {"sensitivity": 1.5}, {"unsure": -0.1}, {"unlike": 2.0}):
        with pytest.raises(ConfigError, match=r"judge\."):
            JudgeConfig(**wrong)
