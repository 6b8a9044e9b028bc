"""Checkpoints whose answers nothing was decided about, and answers that are none."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.programs import (
    CompareConfig,
    CompareDataConfig,
    EvalConfig,
    EvalDataConfig,
    PredictConfig,
)
from bcd.errors import BcdError
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.compare import compare_checkpoints
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.inference.predict import predict
from bcd.run_folder import find_checkpoint
from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config
from tests.helpers.noise import write_image

Program = Callable[[str, Path, bool], object]


@pytest.fixture(scope="module")
def trained(small: Path) -> Path:
    return small.parent


@pytest.fixture
def killed(trained: Path, tmp_path: Path) -> Path:
    """The folder of a run that was killed: its best checkpoint has no decision policy."""
    run = tmp_path / "killed"
    return spoil(trained, run, lambda content: content["card"].update(policy=None))


@pytest.fixture
def diverged(trained: Path, tmp_path: Path) -> Path:
    """The folder of a run whose head is NaN, though its card has a decision policy."""

    def change(content: dict[str, Any]) -> None:
        content["state_dict"]["network.head.weight"].fill_(float("nan"))

    return spoil(trained, tmp_path / "diverged", change)


def spoil(trained: Path, run: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    file = run / "checkpoints" / "best.ckpt"
    file.parent.mkdir(parents=True)
    best = trained / "run" / "checkpoints" / "best.ckpt"
    content = torch.load(best, map_location="cpu", weights_only=True)
    change(content)
    torch.save(content, file)
    return run


def evaluates(ckpt: str, out: Path, uncalibrated: bool, corruption: str | None = None) -> object:
    data = with_defaults(EvalDataConfig, num_workers=0)
    return evaluate_checkpoint(
        with_defaults(
            EvalConfig,
            ckpt=ckpt,
            corruptions=corruption,
            uncalibrated=uncalibrated,
            device="cpu",
            run_dir=str(out),
            data=data,
        )
    )


def evaluates_corruptions(ckpt: str, out: Path, uncalibrated: bool) -> object:
    return evaluates(ckpt, out, uncalibrated, "brief")


def predicts(ckpt: str, out: Path, uncalibrated: bool) -> object:
    image = write_image(out.parent / "new.png", torch.zeros(48, 48, 3).byte().numpy())
    (out.parent / "bad.png").touch()
    files = [str(image), str(out.parent / "bad.png")]
    return predict(
        with_defaults(
            PredictConfig,
            ckpt=ckpt,
            input=files,
            uncalibrated=uncalibrated,
            device="cpu",
            num_workers=0,
            run_dir=str(out),
        )
    )


def compares(ckpt: str, out: Path, uncalibrated: bool) -> object:
    copy = str(shutil.copy(find_checkpoint(ckpt), out.parent / "copy.ckpt"))
    data = with_defaults(CompareDataConfig, num_workers=0)
    return compare_checkpoints(
        with_defaults(
            CompareConfig,
            ckpts=[ckpt, copy],
            uncalibrated=uncalibrated,
            device="cpu",
            run_dir=str(out),
            data=data,
        )
    )


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("program", [evaluates, evaluates_corruptions, predicts, compares])
@pytest.mark.parametrize("kind", ["run folder", "best.ckpt", "last.ckpt"])
def test_a_checkpoint_without_a_policy_is_refused_in_a_line_that_says_what_to_do(
    program: Program, kind: str, trained: Path, killed: Path, tmp_path: Path
) -> None:
    ckpt = {
        "run folder": killed,
        "best.ckpt": killed / "checkpoints" / "best.ckpt",
        "last.ckpt": trained / "run" / "checkpoints" / "last.ckpt",
    }[kind]
    with pytest.raises(BcdError, match=r"uncalibrated.*best\.ckpt.*uncalibrated=true") as caught:
        program(str(ckpt), tmp_path / "out", False)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 1
    assert not (tmp_path / "out").exists()


def test_what_is_allowed_says_in_every_row_that_it_is_uncalibrated(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, program in (("predict", predicts), ("eval", evaluates_corruptions)):
        program(str(killed), tmp_path / name, True)
        given = rows(tmp_path / name)
        assert {row["refer"] for row in given} == {"true"}
        assert {row["malignant"] for row in given} == {""}
        assert {row["reason"] for row in given if row["prediction"]} == {"uncalibrated"}
        assert "uncalibrated" in capsys.readouterr().err
    (unread,) = [row for row in rows(tmp_path / "predict") if row["error"]]
    assert unread["reason"] == "unreadable; uncalibrated"
    test = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]
    assert test["calibrated"] is False
    assert (test["referred"], test["referral_reasons"]) == (1.0, {"uncalibrated": test["n"]})
    assert not {"prediction_sets", "at_threshold"} & test.keys()
    compares(str(killed), tmp_path / "compare", True)
    found = json.loads((tmp_path / "compare" / "comparison.json").read_text())
    assert [found[name]["metrics"]["calibrated"] for name in "ab"] == [False, False]
    assert "(uncalibrated)" in capsys.readouterr().err


def test_a_diverged_network_gives_no_class(diverged: Path, tmp_path: Path) -> None:
    predicts(str(diverged), tmp_path / "out", False)
    given, unread = rows(tmp_path / "out")
    assert (given["refer"], given["reason"], given["error"]) == ("true", "not finite", "")
    names = ["prediction", "probability", "malignant", *(n for n in given if n.startswith("p_"))]
    assert {given[name] for name in names} == {""}
    assert unread["reason"] == "unreadable"


def test_a_policy_that_lacks_a_decision_is_refused_not_filled_in(
    trained: Path, tmp_path: Path
) -> None:
    run = spoil(trained, tmp_path / "run", lambda c: c["card"]["policy"].pop("malignant_threshold"))
    with pytest.raises(BcdError, match="not a checkpoint that train"):
        predicts(str(run), tmp_path / "out", False)


@pytest.mark.parametrize("name", ["temperature", "malignant_threshold"])
def test_a_policy_whose_numbers_are_none_is_refused(
    name: str, trained: Path, tmp_path: Path
) -> None:
    spoiled = {name: float("nan")}
    run = spoil(trained, tmp_path / "run", lambda c: c["card"]["policy"].update(spoiled))
    with pytest.raises(BcdError, match="not a checkpoint that train"):
        predicts(str(run), tmp_path / "out", False)


@pytest.mark.parametrize("program", [evaluates, compares])
def test_figures_of_answers_that_are_not_finite_are_refused(
    program: Program, diverged: Path, tmp_path: Path
) -> None:
    with pytest.raises(BcdError, match=r"\d+ of \d+ outputs are not finite, the first for \S+png"):
        program(str(diverged), tmp_path / "out", False)
    assert not (tmp_path / "out").exists()


def test_training_ends_in_a_line_where_val_cannot_be_answered(tmp_path: Path) -> None:
    settings = (*SMALL, f"data.root={tmp_path / 'in'}", "optimizer=sgd", "optimizer.lr=1e37")
    with pytest.raises(BcdError):
        train(train_config(tmp_path / "run", *settings))
    for file in (tmp_path / "run").rglob("*.ckpt"):
        assert load_checkpoint(file, uncalibrated=True)[1].policy is None
    shutil.rmtree(tmp_path / "run")
