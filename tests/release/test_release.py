"""A release as a user makes it: who answers what, what is shipped, and what other commands do."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import bcd
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.build import build
from bcd.inference.checkpoint import load_checkpoint
from bcd.models.checkpoint_content import network_state, read_content
from bcd.models.classifier import SmearClassifier
from bcd.models.heads.averaged import AveragedHeads
from bcd.release.members import weights_sha256
from bcd.release.run import release
from tests.helpers.choosing import exhaustive_if
from tests.helpers.harness import CONF, error_lines, script, verb
from tests.release.making import FOLDS, FROZEN, metrics, released, rows


def probabilities(folder: Path, paths: list[str]) -> np.ndarray:
    """What `bcd predict` says of images."""
    predictor = bcd.load(folder)
    found = predictor.predict(paths, num_workers=0)
    return np.array([[row[f"p_{name}"] for name in predictor.classes] for row in found])


@pytest.fixture(params=["frozen", "trained"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A release with frozen and one with trained blocks."""
    made: Path = request.getfixturevalue(request.param)
    return made


@pytest.mark.slow
def test_each_image_is_answered_by_the_member_that_has_not_seen_its_slide(
    folder: Path, base: Path
) -> None:
    folds, predicted = rows(folder / "folds.csv"), rows(folder / "predictions.csv")
    assert [row["path"] for row in folds] == [row["path"] for row in predicted]
    slides: dict[str, set[str]] = {}
    for fold in range(FOLDS):
        run = folder / "folds" / str(fold)
        subsets = {row["path"]: row["subset"] for row in rows(run / "split.csv")}
        own = [place for place, row in enumerate(folds) if row["fold"] == str(fold)]
        assert {folds[p]["path"] for p in own} == {p for p, s in subsets.items() if s == "test"}
        slides[str(fold)] = {folds[p]["cluster"] for p in own}
        # The member's most probable class is that of the release's table.
        paths = [str(base / "images" / folds[p]["path"]) for p in own]
        classes = bcd.load(run / "checkpoints" / "best.ckpt").classes
        best = probabilities(run / "checkpoints" / "best.ckpt", paths).argmax(axis=1)
        assert [classes[k] for k in best] == [predicted[p]["prediction"] for p in own]
    assert len(folds) == 96
    assert not slides["0"] & slides["1"] and not slides["1"] & slides["2"]


@pytest.mark.slow
def test_the_checkpoint_averages_the_calibrated_members(folder: Path, base: Path) -> None:
    paths = sorted(str(p) for p in (base / "images").rglob("*.png"))[:12]
    assert len(paths) == 12
    _, card = load_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert card.release is not None and card.members == FOLDS
    of_members = []
    for fold in range(FOLDS):
        file = folder / "folds" / str(fold) / "checkpoints" / "best.ckpt"
        logged = np.log(probabilities(file, paths).clip(1e-12))
        policy = DecisionPolicy.from_plain(load_checkpoint(file)[1].policy)
        scaled = logged * policy.temperature / card.release["temperature"]
        p = np.exp(scaled)
        of_members.append(p / p.sum(axis=1, keepdims=True))
    expected = np.mean(of_members, axis=0)
    assert probabilities(folder, paths) == pytest.approx(expected, abs=2e-5)


@pytest.mark.slow
def test_the_card_names_the_members_by_their_weights(frozen: Path) -> None:
    _, card = load_checkpoint(frozen / "checkpoints" / "best.ckpt")
    assert card.release is not None
    states = [
        network_state(read_content(frozen / "folds" / str(k) / "checkpoints" / "best.ckpt"))
        for k in range(FOLDS)
    ]
    recorded = [member["sha256"] for member in card.release["members"]]
    assert recorded == [weights_sha256(state) for state in states]
    assert len(set(recorded)) == FOLDS
    assert card.release["out_of_fold"] == metrics(frozen)["out_of_fold"]
    assert len(card.split["train"]) == 96 and not card.split["test"]


@pytest.mark.slow
def test_a_release_is_exported_with_its_members(frozen: Path, trained: Path) -> None:
    for folder in (frozen, trained):  # the second one also has test-time views
        exported = build(*load_checkpoint(folder / "checkpoints" / "best.ckpt"), "onnx")
        assert "disagreement_limit" in exported.thresholds
        assert exported.parity.decided > exported.parity.images / 2


def test_a_release_is_a_checkpoint_like_any_other(frozen: Path, trained: Path, base: Path) -> None:
    images = f"data.root={base}/images"
    evaluated = verb("eval", f"ckpt={frozen}", images, "subset=all", f"run_dir={base}/eval")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "96 of 96 images were trained or chosen on" in evaluated.stderr
    assert "of the out-of-fold answers" in evaluated.stderr
    compared = verb("compare", f"ckpts=[{frozen},{trained}]", images, f"run_dir={base}/compare")
    assert compared.returncode == 0, compared.stderr
    module = SmearClassifier.load_from_checkpoint(frozen / "checkpoints" / "best.ckpt")
    head = module.network.head
    assert isinstance(head, AveragedHeads) and len(head.heads) == FOLDS


@pytest.mark.slow
def test_evaluating_the_images_that_a_release_held_out_says_where_they_are(frozen: Path) -> None:
    done = verb("eval", f"ckpt={frozen}")
    (line,) = error_lines(done)
    assert done.returncode == 1
    assert "a release has no test set" in line and "metrics.json" in line


@pytest.mark.slow
def test_one_more_model_is_trained_on_all_images(frozen: Path, base: Path) -> None:
    folder, status, said = released(base, "single", *FROZEN, "members=1", f"from={frozen}")
    assert status == 0, said
    network, card = load_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert card.members == 1 and not isinstance(network.head, AveragedHeads)
    assert metrics(folder)["out_of_fold"] == metrics(frozen)["out_of_fold"]
    page = (folder / "model_card.md").read_text(encoding="utf-8")
    assert "trained on all images" in page
    assert "the accuracy of the model itself, which was trained on all images" in page
    assert metrics(folder)["gate"]["passed"] is True


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["members=2"], "members=2: null averages"),
        (["recipe=release"], "recipe=release: give the experiment"),
        (["split.folds=2"], "split.folds=2: must be 3 or more"),
        (["split.fold=1"], "split.fold: a release trains every fold"),
        (["tta=d5"], "did you mean 'd4'?"),
        (["from=nowhere"], "from=nowhere: is not the folder of a finished release"),
        (["decision.ood=0.1"], "decision.ood=0.1: a release has one limit for all reasons"),
        (["recipe=robst"], "recipe=robst: no such file in conf/experiment; did you mean 'robust'?"),
    ],
)
def test_wrong_settings_are_one_line(
    words: list[str], wanted: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*FROZEN, *words, f"data.root={base}/images"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"run_dir={base}/wrong", *given])
        monkeypatch.setattr("bcd.release.run.HydraConfig", Mock())
        monkeypatch.setattr("bcd.release.run.HydraConfig.get.return_value.overrides.task", given)
        with pytest.raises(BcdError) as caught:
            release(cfg)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)
    assert not (base / "wrong").exists()


@pytest.mark.slow
def test_folds_of_other_settings_are_not_put_together(frozen: Path, base: Path) -> None:
    _, status, said = released(base, frozen.name, *FROZEN, "head.C=0.5")
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert "fold 0 in" in line and "was trained with other settings" in line


@pytest.mark.slow
def test_folds_are_put_together_only_with_the_images_they_were_trained_on(
    frozen: Path, base: Path
) -> None:
    shutil.copytree(frozen, base / "grown")
    drawn = next((base / "images" / "Pro-B").glob("*.png"))
    added = Path(shutil.copy(drawn, drawn.with_name("slide09-00999.png")))
    try:
        _, status, said = released(base, "grown", *FROZEN)
    finally:
        added.unlink()
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert "are not those that fold 0 was trained on" in line


@pytest.mark.slow
def test_a_fold_without_its_checkpoint_is_trained_again(frozen: Path, base: Path) -> None:
    shutil.copytree(frozen, base / "lost")
    (base / "lost" / "folds" / "1" / "checkpoints" / "best.ckpt").unlink()
    _, status, said = released(base, "lost", *FROZEN)
    assert status == 0, said
    assert said.count("already done") == FOLDS - 1 and "trial 1: val" in said
    assert metrics(base / "lost")["out_of_fold"] == metrics(frozen)["out_of_fold"]
    (base / "lost" / "folds" / "2" / "trial.json").write_text("{")
    _, status, said = released(base, "lost", *FROZEN)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1 and "folds/2/trial.json is damaged: remove it" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    exhaustive_if(  # the learning curve's folds are those of shares, in test_options.py
        lambda words: len(words) == 1,
        [("split=blocked", "split.embargo=2", "split.val=0.2"), ("split.train_share=0.7",),
         ("split=stratified",)],
    ),
)  # fmt: skip
def test_other_splits_are_released_and_described(words: tuple[str, ...], base: Path) -> None:
    folder, status, said = released(base, words[0].replace("=", "_"), *FROZEN, *words)
    assert status == 0, said
    page = (folder / "model_card.md").read_text(encoding="utf-8")
    told = {
        "split=blocked": "2 files left out between them",
        "split=stratified": "how the model does on new slides",
    }
    assert told.get(words[0], "each image was judged by the one member") in page
    assert len(rows(folder / "predictions.csv")) == 96


def test_the_jobs_of_a_release_are_its_folds_alone(base: Path) -> None:
    done = script(
        "train.py", "-m", *FROZEN, f"data.root={base}/images", f"hydra.sweep.dir={base}/swept",
        "seed=0,1",
    )  # fmt: skip
    assert done.returncode == 2
    assert error_lines(done) == [
        "error: seed=0,1: the jobs of a release are its folds: give a single value"
    ]
    assert not (base / "swept" / "folds").exists()


@pytest.mark.slow
def test_a_fold_that_fails_ends_the_release_with_its_reason(base: Path) -> None:
    words = (*FROZEN, "recipe=paper", "trainer.limit_train_batches=0")
    folder, status, said = released(base, "fails", *words)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1 and line.startswith("error: fold 0: ")
    assert not (folder / "checkpoints").exists() and not (folder / "folds" / "1").exists()


def test_a_single_run_has_no_budget_of_referral(base: Path) -> None:
    words = [word for word in FROZEN if word != "experiment=release"]
    _, status, said = released(base, "wrong", *words, "split=kfold", "decision.refer=0.05")
    assert status == 2
    assert "decision.refer=0.05: only experiment=release" in said
