"""Runs with several input views: the checkpoint knows them, and every command applies them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bcd.data.datamodule import SmearDataModule
from bcd.errors import BcdError
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.models.checkpoint_content import read_content
from bcd.models.classifier import SmearClassifier
from bcd.training.run import TrainResult, train
from tests.helpers.harness import (
    SMALL,
    assert_same_figures,
    error_lines,
    eval_config,
    predict_config,
    predicted,
    script,
    train_config,
)
from tests.models.test_lightning_contract import FIGURES, plain_trainer

VIEWS = ("plain", "reinhard", "grey@64")
SETTINGS = (f"model.views=[{','.join(VIEWS)}]", "model.unfreeze=0", "logger=none")


@pytest.fixture(scope="module", params=["linear", "logreg"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp(request.param)
    words = (*SMALL, *SETTINGS, f"data.root={folder}/images", f"head={request.param}")
    result = train(train_config(folder / "run", *words))
    assert result is not None
    return result


def test_eval_predict_and_lightning_give_the_answers_of_the_run(
    run: TrainResult, tmp_path: Path
) -> None:
    ckpt = f"ckpt={run.run_dir}"
    again = evaluate_checkpoint(eval_config(tmp_path / "eval", ckpt, "data.num_workers=0"))["test"]
    assert_same_figures(again.metrics, run.metrics["test"])
    unbanked = eval_config(tmp_path / "images", ckpt, "data.num_workers=0", "features.bank=false")
    direct = evaluate_checkpoint(unbanked)["test"]
    root = run.run_dir.parent / "images"
    files = [str(root / p.path) for p in again.predictions]
    words = (f"input=[{','.join(files)}]", f"output={tmp_path}/a.csv", "num_workers=0")
    asked = predicted(predict_config(tmp_path / "predict", ckpt, *words))
    expected = np.array([p.probabilities for p in again.predictions])
    for others in (direct.predictions, asked):
        np.testing.assert_allclose([p.probabilities for p in others], expected, atol=1e-4)
    assert [p.refer for p in asked] == [p.refer for p in again.predictions]
    file = run.run_dir / "checkpoints" / "best.ckpt"
    model = SmearClassifier.load_from_checkpoint(file)
    data = SmearDataModule.load_from_checkpoint(file)
    (tested,) = plain_trainer(tmp_path).test(model, datamodule=data, verbose=False)
    for name in FIGURES:
        assert tested[f"test/{name}"] == pytest.approx(again.metrics[name], abs=1e-4), name


def test_the_card_holds_the_definition_of_each_view(run: TrainResult) -> None:
    network, card = load_checkpoint(run.run_dir / "checkpoints" / "best.ckpt")
    assert card.views[0] == {"normalization": "plain", "side": 48}
    assert card.views[1]["normalization"] == "reinhard"
    assert len(card.views[1]["mean"]) == 3
    assert card.views[2] == {"normalization": "grey", "side": 64}
    assert network.head.in_features == 3 * 128
    assert (card.input_size, card.sides) == (48, (48, 64))


def test_a_checkpoint_whose_views_are_made_differently_now_is_refused(
    run: TrainResult, tmp_path: Path
) -> None:
    content = read_content(run.run_dir / "checkpoints" / "best.ckpt")
    content["card"]["views"][1]["mean"] = [80, 7, -2]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(BcdError, match=r"its view reinhard was made as .*80, 7, -2.*as .*83, 7"):
        load_checkpoint(tmp_path / "other.ckpt")


def test_robustness_without_a_bank_is_that_of_the_bank(run: TrainResult, tmp_path: Path) -> None:
    """The suite on the engine, and the same corruptions as cached views, agree."""
    from bcd.data.views import Augmenter, ImageViews
    from bcd.evaluation import brief_robustness, robustness
    from bcd.evaluation.corruption_suites import make_corruption
    from bcd.evaluation.decision import DecisionPolicy

    network, card = load_checkpoint(run.run_dir / "checkpoints" / "best.ckpt")
    policy, catalog = DecisionPolicy.from_plain(card.policy), run.datamodule.catalog
    indices, cpu = run.datamodule.split.indices("test"), torch.device("cpu")
    cfg = train_config(tmp_path, *SMALL, *SETTINGS)
    corrupted = brief_robustness.brief_robustness(
        network, policy, catalog, indices, cfg.model, cfg.features, False, cpu
    )
    banked = brief_robustness.brief_table([corrupted], catalog.benign, {})
    suite = tuple(make_corruption(kind, strength) for kind, strength in brief_robustness._BRIEF)
    augmenter = Augmenter(cfg.augment, 0)
    source = ImageViews.of(catalog, card.input_size, augmenter, False, card.view_names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "corruption_suite", lambda _: suite)
        direct = robustness.evaluate_suite("", network, policy, source, indices, "torch", cpu)
    assert [row["kind"] for row in direct] == ["none", "grey", "jpeg", "gaussian blur"]
    for one, other in zip(direct, banked, strict=True):
        for name in ("accuracy", "referred", "n"):
            assert one[name] == pytest.approx(other[name]), (one["kind"], name)


def test_a_request_that_cannot_work_is_one_line(tmp_path: Path) -> None:
    words = (*SMALL, f"data.root={tmp_path}/images", f"run_dir={tmp_path}/run")
    for views, wanted in (
        ("model.views=[plain,gray]", "did you mean 'grey'?"),
        ("model.views=[plain,grey]", "set model.unfreeze=0"),  # the small network is trained
        ("model.views=grey", "needs a list"),
    ):
        done = script("train.py", *words, views)
        (line,) = error_lines(done)
        assert done.returncode != 0
        assert wanted in line
