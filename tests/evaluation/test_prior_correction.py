"""Prior correction: probabilities for equal class shares, before any limit is fitted on val."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.decision import DecisionConfig
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.answers import Answers, softmax
from bcd.evaluation.calibration import calibrated_probabilities, check_priors, fit_temperature
from bcd.evaluation.conformal import conformal_threshold
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.policy_fitting import fit_policy
from bcd.evaluation.predictions import Prediction
from bcd.evaluation.thresholds import lower_limit, threshold_for_sensitivity
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.models.classifier import SmearClassifier
from bcd.models.scores import Calibration
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, eval_config, predict_config, predicted, train_config

SHARES = [0.7, 0.2, 0.1]


def rare(n: int, seed: int, sharpness: float = 2.0) -> Answers:
    """Outputs for classes as frequent as `SHARES`, calibrated after division by `sharpness`.

    Scores are normal with mean 1.5 in the true class and 0 elsewhere, so that log densities differ
    by 1.5 times the scores and the posterior is `softmax(1.5 * scores + log SHARES)`.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=SHARES)
    scores = rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[labels]
    logits = sharpness * (1.5 * scores + np.log(SHARES))
    features = np.zeros((n, 4), np.float32)
    return Answers(logits.astype(np.float32), features, labels.astype(np.int64))


def policy_of(val: Answers, on: bool) -> DecisionPolicy:
    cfg = with_defaults(DecisionConfig, prior_correction=on, sensitivity=0.9, low_confidence=0.1)
    return fit_policy(cfg, val, None, 0, shares=SHARES)


def test_probabilities_are_divided_by_the_shares_after_the_temperature() -> None:
    # exp(logits / 2) is 4, 2, 1; divided by 1/2, 1/4, 1/4 it is 8, 8, 4.
    logits = 2 * np.log([[4.0, 2.0, 1.0]])
    given = calibrated_probabilities(logits, 2.0, [0.5, 0.25, 0.25])
    np.testing.assert_allclose(given, [[0.4, 0.4, 0.2]], rtol=1e-12)
    policy = DecisionPolicy(2.0, (0.5, 0.25, 0.25))
    np.testing.assert_array_equal(policy.probabilities(logits), given)
    # In the other order, sqrt(4^2 / 0.5) and so on, they would not be those.
    other = np.sqrt(np.array([16, 4, 1]) / [0.5, 0.25, 0.25])
    assert np.abs(other / other.sum() - given).max() > 0.05
    logged = Calibration.of(policy.to_plain()).apply(torch.tensor(logits))
    np.testing.assert_allclose(torch.softmax(logged, 1).numpy(), given, rtol=1e-6)


def test_every_limit_is_fitted_to_corrected_probabilities() -> None:
    val = rare(2000, 1)
    policy, plain = policy_of(val, True), policy_of(val, False)
    assert policy.temperature == plain.temperature == fit_temperature(val.logits, val.labels)
    assert (policy.priors, plain.priors) == (tuple(SHARES), None)
    p = softmax(val.logits.astype(np.float64) / policy.temperature) / SHARES
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(policy.probabilities(val.logits), p, rtol=1e-9)
    found = threshold_for_sensitivity(1 - p[:, 0], val.labels != 0, 0.9, 0.9)
    assert policy.malignant_threshold == pytest.approx(found.threshold, rel=1e-9)
    sets = conformal_threshold(p, val.labels, 0.95).value
    assert policy.set_threshold == pytest.approx(sets, rel=1e-9)
    limit = lower_limit(p.max(axis=1), 0.1).value
    assert policy.confidence_threshold == pytest.approx(limit, rel=1e-9)


def test_correction_recovers_rare_classes_and_costs_accuracy() -> None:
    policy, test = policy_of(rare(4000, 1), True), rare(20000, 2)
    assert policy.temperature == pytest.approx(2, rel=0.1)

    def recalls(priors: tuple[float, ...] | None) -> np.ndarray:
        best = replace(policy, priors=priors).probabilities(test.logits).argmax(axis=1)
        return np.array([(best[test.labels == k] == k).mean() for k in range(3)])

    with_it, without = recalls(policy.priors), recalls(None)
    assert with_it.mean() > without.mean() + 0.05
    assert with_it[0] < without[0]
    assert with_it[2] > without[2] + 0.2
    assert np.ptp(with_it) < 0.05  # the scores tell all classes apart equally well
    assert with_it @ SHARES < without @ SHARES


def test_off_changes_nothing() -> None:
    val = rare(500, 1)
    cfg = with_defaults(DecisionConfig)
    assert cfg.prior_correction is False
    one, other = fit_policy(cfg, val, None, 0), fit_policy(cfg, val, None, 0, shares=SHARES)
    assert one == other
    scaled = softmax(val.logits.astype(np.float64) / one.temperature)
    np.testing.assert_array_equal(one.probabilities(val.logits), scaled)


@pytest.mark.parametrize(
    "wrong", [[0.5, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [float("nan"), 0.5, 0.5], []]
)
def test_shares_that_cannot_divide_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="class shares"):
        check_priors(wrong, 3)
    cfg = with_defaults(DecisionConfig, prior_correction=True)
    with pytest.raises(ValueError, match="class shares"):
        fit_policy(cfg, rare(50, 1), None, 0, shares=wrong)


@pytest.mark.parametrize("setting", ["model.class_weights=balanced", "data.balanced=true"])
def test_training_as_if_classes_were_equal_is_not_corrected_again(
    setting: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"prior_correction=true: {setting} already"):
        train_config(tmp_path, *SMALL, setting, "decision.prior_correction=true")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run with classes of different sizes."""
    folder = tmp_path_factory.mktemp("run")
    words = (*SMALL, f"data.root={folder / 'images'}", "logger=none")
    first = train(train_config(folder / "first", *words, "trainer.max_epochs=1"))
    assert first is not None
    catalog = first.datamodule.catalog  # its classes have equal sizes
    for image in catalog.images[::2]:
        if image.label < 2:
            (catalog.root / image.path).unlink()
    cfg = train_config(folder / "run", *words, "decision.prior_correction=true")
    result = train(cfg)
    assert result is not None
    return result


def test_train_eval_and_predict_correct_alike(run: TrainResult, tmp_path: Path) -> None:
    file = run.run_dir / "checkpoints" / "best.ckpt"
    _, card = load_checkpoint(file)
    assert card.policy is not None
    labels = [run.datamodule.catalog.labels[i] for i in run.datamodule.split.indices("train")]
    counts = np.bincount(labels)
    assert len(set(counts)) > 1
    assert card.policy["priors"] == tuple(counts / counts.sum())
    again = evaluate_checkpoint(eval_config(tmp_path / "eval", f"ckpt={file}"))["test"]
    trained = json.loads((run.run_dir / "metrics.json").read_text())["test"]
    evaluated = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]
    assert evaluated == trained
    model = SmearClassifier.load_from_checkpoint(file)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False,
                         accelerator="cpu", devices=1, default_root_dir=tmp_path)  # fmt: skip
    (logged,) = trainer.test(model, datamodule=run.datamodule, verbose=False)
    for name in ("loss", "accuracy", "recall"):
        assert logged[f"test/{name}"] == pytest.approx(evaluated[name], abs=1e-6), name
    root = run.datamodule.catalog.root
    paths = [str(root / p.path) for p in again.predictions]
    listed = f"input=[{','.join(paths)}]"
    told = predicted(predict_config(tmp_path / "p", f"ckpt={file}", listed, "num_workers=0"))
    by_path: dict[str, Prediction] = {p.path: p for p in told}
    for path, expected in zip(paths, again.predictions, strict=True):
        np.testing.assert_allclose(
            by_path[path].probabilities, expected.probabilities, atol=1e-5, rtol=0
        )


def test_metrics_and_report_state_what_the_correction_changed(
    run: TrainResult, tmp_path: Path
) -> None:
    file = run.run_dir / "checkpoints" / "best.ckpt"
    result = evaluate_checkpoint(eval_config(tmp_path, f"ckpt={file}"))["test"]
    _, card = load_checkpoint(file)
    assert card.policy is not None
    undivided = result.probabilities * card.policy["priors"]  # up to a factor for each image
    best, labels = undivided.argmax(axis=1), result.labels
    before = run.metrics["test"]["without_prior_correction"]
    recalls = [(best[labels == k] == k).mean() for k in range(4)]
    assert before["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert before["accuracy"] == pytest.approx((best == labels).mean())
    ill = labels != card.benign
    found = (best[ill] != card.benign).mean()
    assert before["malignant_sensitivity"] == pytest.approx(found)
    for name in ("report.html", "model_card.md"):
        text = (run.run_dir / name).read_text()
        assert "Prior correction: after the temperature" in text
        assert f"without correction {before['balanced_accuracy']:.4f}" in text


@pytest.mark.parametrize("change", ["missing", "too few", "zero"])
def test_a_card_without_valid_priors_is_refused(
    change: str, run: TrainResult, tmp_path: Path
) -> None:
    content = torch.load(run.run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    policy = content["card"]["policy"]
    if change == "missing":
        del policy["priors"]
    else:
        policy["priors"] = (0.5, 0.5) if change == "too few" else (0.0, 0.5, 0.25, 0.25)
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(BcdError, match="not a checkpoint that train"):
        load_checkpoint(tmp_path / "a.ckpt")
