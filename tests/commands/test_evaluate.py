"""Evaluating a checkpoint on its own run's images and on others."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.programs import EvalConfig, EvalDataConfig
from bcd.data.splits.split import sha256_of
from bcd.data.synthetic.smears import generate
from bcd.errors import BcdError
from bcd.evaluation.results import Result
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.training.run import train
from tests.helpers.harness import (
    SMALL,
    assert_same_figures,
    error_lines,
    script,
    train_config,
    warnings,
)
from tests.helpers.noise import noise, write_classes, write_image

CLASSES = ("Benign", "Early Pre-B", "Pre-B", "Pro-B")
DATA_KEYS = ("root", "variant", "batch_size", "num_workers")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder beside its images; nothing is left that could stand in for the card."""
    folder = tmp_path_factory.mktemp("trained")
    # Many small batches, for a network that does not say the same of every image.
    settings = (*SMALL, "data.batch_size=4", f"data.root={folder / 'images'}")
    train(train_config(folder / "run", *settings))
    for name in ("config.yaml", "run.json", "split.csv"):
        (folder / "run" / name).unlink()
    return folder


@pytest.fixture
def images(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run's images."""
    return shutil.copytree(trained / "images", tmp_path / "copy")


def evaluated(trained: Path, run_dir: Path, **settings: Any) -> Result:
    """The only result of an evaluation; `root`, `batch_size` and the like go to `data`."""
    data = {"num_workers": 0, **{k: settings.pop(k) for k in [*settings] if k in DATA_KEYS}}
    cfg = with_defaults(
        EvalConfig, ckpt=str(trained / "run"), device="cpu", run_dir=str(run_dir), **settings
    )
    cfg.data = with_defaults(EvalDataConfig, **data)
    (result,) = evaluate_checkpoint(cfg).values()
    return result


def reported(trained: Path, part: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((trained / "run" / "metrics.json").read_text())[part]
    return metrics


def hashes(trained: Path, *parts: str) -> set[str]:
    _, card = load_checkpoint(trained / "run" / "checkpoints" / "best.ckpt")
    return {sha256_of(image) for part in parts for image in card.split[part]}


def files_of(root: Path, sha256s: set[str]) -> list[Path]:
    import hashlib

    every = sorted(root.rglob("*.png"))
    return [p for p in every if hashlib.sha256(p.read_bytes()).hexdigest() in sha256s]


def test_the_command_line_repeats_the_reported_figures_from_anywhere(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = script("eval.py", f"ckpt={os.path.relpath(trained / 'run', tmp_path)}", "device=cpu",
                  f"hydra.run.dir={out}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all("groups correspond to" in line for line in warnings(done.stderr))
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics) == ["test"]
    assert_same_figures(metrics["test"], reported(trained, "test"))
    rows, expected = (
        list(csv.DictReader((folder / "predictions.csv").open(newline="", encoding="utf-8")))
        for folder in (out, trained / "run")
    )
    assert [(r["path"], r["label"]) for r in rows] == [(r["path"], r["label"]) for r in expected]
    assert len({row["probability"] for row in rows}) > len(rows) // 2
    for row, other in zip(rows, expected, strict=True):
        assert row["prediction"] == other["prediction"]
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1.1e-6)
    info = json.loads((out / "run.json").read_text())
    assert Path(info["checkpoint"]).resolve() == trained / "run" / "checkpoints" / "best.ckpt"
    assert info["rejected"] == []


def test_an_unknown_class_is_an_error_in_one_line(trained: Path, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"Benign": 2, "Platelet": 2})
    done = script("eval.py", f"ckpt={trained / 'run'}", f"data.root={root}",
                  f"hydra.run.dir={tmp_path / 'out'}")  # fmt: skip
    (line,) = error_lines(done)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in ("'Platelet'", str(root), "Benign, Early Pre-B, Pre-B, Pro-B"):
        assert part in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_changes_no_figure(batch_size: int, trained: Path, tmp_path: Path) -> None:
    given = evaluated(trained, tmp_path, batch_size=batch_size)
    assert_same_figures(given.metrics, reported(trained, "test"))


def test_val_is_evaluated_as_the_run_reported_it_and_train_is_all_of_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_same_figures(
        evaluated(trained, tmp_path, subset="val").metrics, reported(trained, "val")
    )
    train_part = evaluated(trained, tmp_path, subset="train")
    assert train_part.metrics["n"] == len(hashes(trained, "train"))
    assert all(
        "groups correspond to" in line for line in warnings(capsys.readouterr().err)
    )  # it was asked for by name
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["train"]


def test_all_of_the_runs_own_images_come_with_a_warning(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = evaluated(trained, tmp_path, subset="all")
    parts = {part: evaluated(trained, tmp_path, subset=part) for part in ("train", "val", "test")}
    assert everything.metrics["n"] == sum(part.metrics["n"] for part in parts.values())
    expected = {p.path: p for part in parts.values() for p in part.predictions}
    for prediction in everything.predictions:
        same = expected.pop(prediction.path)
        assert prediction.label == same.label
        assert prediction.probabilities == pytest.approx(same.probabilities, abs=1e-6)
    assert expected == {}
    count = len(hashes(trained, "train", "val"))
    assert f"warning: {count} of {everything.metrics['n']} images" in capsys.readouterr().err


def test_images_of_other_slides_are_all_evaluated_without_a_warning_but_of_colour(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(tmp_path / "other", count=20, slides=2, size=48, seed=5)
    result = evaluated(trained, tmp_path / "out", root=str(tmp_path / "other"))
    assert result.metrics["n"] == 20
    assert set(result.metrics["n_by_class"].values()) == {5}
    expected = ("groups correspond to", "differ from the training images")
    told = warnings(capsys.readouterr().err)
    assert all(any(part in line for part in expected) for line in told)
    right = np.mean([max(p.probabilities) == p.probabilities[CLASSES.index(p.label)]
                     for p in result.predictions])  # fmt: skip
    assert result.metrics["accuracy"] == pytest.approx(right)


def test_other_images_may_be_of_some_classes_only(trained: Path, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"pro": 3, "[Malignant] Early": 2})
    result = evaluated(trained, tmp_path / "out", root=str(root))
    counts = {"Benign": 0, "Early Pre-B": 2, "Pre-B": 0, "Pro-B": 3}
    assert result.metrics["n_by_class"] == counts
    assert {p.label for p in result.predictions} == {"Early Pre-B", "Pro-B"}
    assert all(len(p.probabilities) == 4 for p in result.predictions)


def test_images_of_other_roots_that_overlap_are_one_cluster(trained: Path, tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", {"pro": 3, "[Malignant] Early": 2})
    shutil.copy(root / "pro" / "000.png", root / "pro" / "copy.png")
    result = evaluated(trained, tmp_path / "out", root=str(root))
    assert (result.metrics["n"], result.metrics["n_groups"]) == (6, 5)


def test_rejected_files_are_counted_and_listed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_classes(tmp_path / "in", {"Benign": 2, "Pro": 2})
    (root / "Pro" / "empty.png").touch()
    write_image(root / "Benign" / "tiny.png", noise(0, size=8))
    result = evaluated(trained, tmp_path / "out", root=str(root))
    assert result.metrics["n"] == 4
    assert "rejected: 2 files" in capsys.readouterr().err
    rejected = json.loads((tmp_path / "out" / "run.json").read_text())["rejected"]
    assert [item["path"] for item in rejected] == ["Benign/tiny.png", "Pro/empty.png"]
    assert "8x8" in rejected[0]["reason"] and "empty" in rejected[1]["reason"]


def test_the_error_for_moved_images_names_the_option(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    away = trained / "images"
    hidden = away.rename(trained / "hidden")
    try:
        with pytest.raises(BcdError, match="the run's images are not at") as caught:
            evaluated(trained, tmp_path / "out")
        assert str(away) in str(caught.value)
        assert "data.root=" in str(caught.value)
        assert str(caught.value).endswith("subset=test")  # with a root alone all are taken
        assert not (tmp_path / "out").exists()
        moved = evaluated(trained, tmp_path / "out", root=str(images), subset="test")
    finally:
        hidden.rename(away)
    assert_same_figures(moved.metrics, reported(trained, "test"))


def test_another_root_that_does_not_exist_is_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(BcdError, match=r"there are no images at .*nosuch: give data\.root="):
        evaluated(trained, tmp_path, root=str(tmp_path / "nosuch"))


def test_another_spelling_of_the_runs_root_is_recognised(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [Path("..") / "images"]
    if os.name == "posix":  # elsewhere not everybody may make links
        roots.append(tmp_path / "link")
        roots[-1].symlink_to(trained / "images")
    monkeypatch.chdir(trained / "run")
    for root in map(str, roots):
        given = evaluated(trained, tmp_path / "out", root=root)
        assert_same_figures(given.metrics, reported(trained, "test"))


def test_missing_images_are_counted_in_a_warning(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_part = files_of(images, hashes(trained, "test"))
    for file in test_part[:3]:
        file.unlink()
    files_of(images, hashes(trained, "train"))[0].unlink()  # no matter to the test part
    result = evaluated(trained, tmp_path / "out", root=str(images), subset="test")
    names = {file.relative_to(images).as_posix() for file in test_part[3:]}
    assert {p.path for p in result.predictions} == names
    assert f"warning: 3 of the run's test images are not in {images}" in capsys.readouterr().err


def test_renamed_images_are_found_by_their_content(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, file in enumerate(sorted(images.rglob("*.png"), reverse=True)):
        file.rename(file.with_name(f"renamed {number}.png"))
    result = evaluated(trained, tmp_path / "out", root=str(images), subset="test")
    assert_same_figures(result.metrics, reported(trained, "test"))
    assert all("groups correspond to" in line for line in warnings(capsys.readouterr().err))


def test_the_error_for_a_subset_without_images_names_the_option(
    trained: Path, tmp_path: Path
) -> None:
    root = write_classes(tmp_path / "in", {"Benign": 2, "Pro": 2})
    with pytest.raises(BcdError, match=r"none of the run's test images is in .*subset=all"):
        evaluated(trained, tmp_path / "out", root=str(root), subset="test")
    assert not (tmp_path / "out").exists()
