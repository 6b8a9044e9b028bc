"""On real smears and ImageNet weights, where the environment names them."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bcd.data.reading import read_image
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.evaluation.collect import collect_answers
from bcd.training.run import TrainResult, train
from tests.helpers.choosing import exhaustive_if
from tests.helpers.harness import assert_same_figures, error_lines, script, train_config
from tests.helpers.noise import write_image
from tests.helpers.pages import BROWSER, check_page, chromium

SMEARS = os.environ.get("BCD_TEST_SMEARS", "")
WEIGHTS = os.environ.get("BCD_TEST_WEIGHTS", "")
# Of five; most of the time goes into the features of each.
ONE_VIEW = "augment.views=1"

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not (SMEARS and WEIGHTS), reason="set BCD_TEST_SMEARS and BCD_TEST_WEIGHTS"),
]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the paper's run, and what it said."""
    run = tmp_path_factory.mktemp("paper") / "run"
    done = script(
        "train.py",
        "experiment=paper",
        f"data.root={SMEARS}",
        f"model.weights={WEIGHTS}",
        ONE_VIEW,
        f"hydra.run.dir={run}",
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return run, done.stderr


def test_the_papers_run_reaches_the_papers_figures(paper: tuple[Path, str], tmp_path: Path) -> None:
    away = tmp_path / "away"
    run = Path(shutil.copytree(paper[0], tmp_path / "run"))
    reported = json.loads((run / "metrics.json").read_text())["test"]
    # The least of five seeds was 0.973 with five views; the paper reports the mean.
    assert reported["accuracy"] >= 0.965
    assert min(reported[name] for name in ("precision", "recall", "f1")) >= 0.955
    assert reported["n"] == len(rows(run))
    away.mkdir()
    shutil.move(run / "checkpoints" / "best.ckpt", away / "model.ckpt")
    shutil.rmtree(run)
    again = script(
        "eval.py", "ckpt=model.ckpt", f"hydra.run.dir={tmp_path / 'eval'}", cwd=away, timeout=600
    )
    assert again.returncode == 0, error_lines(again)
    repeated = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]
    assert_same_figures(repeated, reported)


def few(folder: Path, each: int) -> Path:
    """Copies the first images of each class."""
    for source in sorted(p for p in Path(SMEARS).iterdir() if p.is_dir()):
        (folder / source.name).mkdir(parents=True)
        for file in sorted(source.iterdir())[:each]:
            shutil.copy(file, folder / source.name)
    return folder


# Trained blocks amplify rounding, that of another number of threads no less (measured: 0.005 in a
# logit after two epochs of SGD), and Adam's first step is the mere sign of a gradient.
@pytest.mark.parametrize(
    ("unfreeze", "optimizer", "epochs"),
    [(0, "adam", 2), pytest.param(4, "sgd", 1, marks=pytest.mark.exhaustive)],
)
def test_the_bank_changes_no_answer(
    unfreeze: int, optimizer: str, epochs: int, tmp_path: Path
) -> None:
    root = few(tmp_path / "smears", 6)

    def run(name: str) -> TrainResult:
        cfg = train_config(
            tmp_path / name,
            f"data.root={root}",
            f"model.weights={WEIGHTS}",
            "model.input_size=128",
            f"model.unfreeze={unfreeze}",
            f"features={name}",
            f"optimizer={optimizer}",
            "optimizer.lr=1e-3",
            f"trainer.max_epochs={epochs}",
            "callbacks.progress=null",
            "+trainer.enable_progress_bar=false",
        )
        result = train(cfg)
        assert result is not None
        return result

    logits = {}
    for name in ("bank", "off"):
        result = run(name)
        network, loader = result.classifier.network, result.datamodule.plain_loader("test")
        described = np.zeros((len(result.datamodule.split.indices("test")), 1), np.float32)
        logits[name] = collect_answers(network, loader, torch.device("cpu"), described).logits
    assert np.abs(logits["bank"] - logits["off"]).max() <= 0.01
    banked, plain = rows(tmp_path / "bank"), rows(tmp_path / "off")
    assert [row["path"] for row in banked] == [row["path"] for row in plain]
    assert [row["prediction"] for row in banked] == [row["prediction"] for row in plain]


def test_the_run_says_what_its_figures_are_worth(paper: tuple[Path, str]) -> None:
    run, said = paper
    test = json.loads((run / "metrics.json").read_text())["test"]
    (line,) = [line for line in said.splitlines() if line.startswith("audit: ")]
    assert f"{test['leaked']} of {test['n']} test images" in line
    assert test["leaked"] > 200  # every third image overlaps one of another part
    assert abs(test["accuracy"] - test["accuracy_without_leaked"]) < 0.02
    assert test["accuracy_ci"][0] > 0.95
    assert test["ece"] < 0.03
    assert 0.9 < test["prediction_sets"]["coverage"] < 0.99
    assert "accuracy under grey" not in said
    (corruption,) = [line for line in said.splitlines() if line.startswith("corruption: ")]
    assert float(corruption.split()[2]) < 0.9  # the frozen recipe goes by colour


@pytest.mark.exhaustive  # tests/reporting/test_pages.py has a page of drawn smears
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_opens_its_report(paper: tuple[Path, str]) -> None:
    with chromium() as browser:
        # The colours of a report's dark theme are checked in tests/reporting.
        check_page(browser, paper[0] / "report.html", dark=False)


def scenery(rng: np.random.Generator) -> np.ndarray:
    """Sky, ground and things: like a photograph of something else."""
    image = np.zeros((224, 224, 3), np.float32)
    horizon = int(rng.integers(80, 160))
    image[:horizon] = np.linspace([90, 140, 220], [190, 210, 240], horizon)[:, None]
    image[horizon:] = np.linspace([60, 110, 40], [100, 80, 40], 224 - horizon)[:, None]
    for _ in range(12):
        colour, place = rng.integers(0, 256, 3).tolist(), rng.integers(0, 224, 2).tolist()
        size = rng.integers(8, 60, 2).tolist()
        if rng.random() < 0.5:
            cv2.circle(image, place, size[0], colour, -1)
        else:
            cv2.rectangle(image, place, (place[0] + size[0], place[1] + size[1]), colour, -1)
    grainy = cv2.GaussianBlur(image, (0, 0), 1) + rng.normal(0, 6, image.shape)
    return np.clip(grainy, 0, 255).astype(np.uint8)


def page_of_text(rng: np.random.Generator) -> np.ndarray:
    page = np.full((224, 224, 3), 255, np.uint8)
    for row in range(14, 224, 16):
        line = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz   "), 28))
        cv2.putText(page, line, (4, row), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20), 1)
    return page


def foreign(folder: Path, each: int) -> Path:
    """Writes images that are no smear in focus: `each` of every kind."""
    rng = np.random.default_rng(0)
    smears = sorted(Path(SMEARS).rglob("*.jpg"))
    for number in range(each):
        blurred = cv2.GaussianBlur(read_image(smears[97 * number]), (0, 0), 6)
        made = {
            "noise": rng.integers(0, 256, (224, 224, 3), dtype=np.uint8),
            "colour": np.full((224, 224, 3), rng.integers(0, 256, 3), np.uint8),
            "drawn": draw_smear(CLASS_NAMES[number % 4], slide=number % 7, index=number),
            "text": page_of_text(rng),
            "scenery": scenery(rng),
            "defocused": blurred,
        }
        for name, pixels in made.items():
            write_image(folder / f"{name}-{number:02d}.png", np.asarray(pixels, np.uint8))
    return folder


def test_what_is_no_smear_in_focus_is_referred_and_real_test_images_are_not(
    paper: tuple[Path, str], tmp_path: Path
) -> None:
    run, _ = paper
    folder = foreign(tmp_path / "foreign", 12)
    done = script(
        "predict.py", f"ckpt={run}", f"input={folder}", f"hydra.run.dir={tmp_path / 'out'}"
    )
    assert done.returncode == 0, done.stderr
    given = rows(tmp_path / "out")
    away = [row for row in given if row["refer"] == "true"]
    assert len(given) == 6 * 12
    assert len(away) / len(given) >= 0.95
    reasons = {reason for row in away for reason in row["reason"].split("; ")}
    assert reasons <= {"out of distribution", "low confidence", "threshold disagrees"}
    kept = [row["path"] for row in given if row["refer"] == "false"]
    assert all("drawn" in path for path in kept), kept
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert test["referred"] <= 0.05


@pytest.mark.parametrize("head", exhaustive_if("logreg".__eq__, ["svm", "logreg"]))
def test_a_head_that_is_fitted_reaches_the_trained_ones_figures(
    head: str, paper: tuple[Path, str], tmp_path: Path
) -> None:
    # The features are those of the paper's run, in the bank.
    plain = (ONE_VIEW, "trainer.max_epochs=1", "callbacks.progress=null")
    words = ("experiment=paper", f"head={head}", f"data.root={SMEARS}", f"model.weights={WEIGHTS}")
    quiet = "+trainer.enable_progress_bar=false"
    cfg = train_config(tmp_path / "run", *words, *plain, quiet)
    result = train(cfg)
    assert result is not None
    trained = json.loads((paper[0] / "metrics.json").read_text())["test"]["accuracy"]
    assert result.metrics["test"]["accuracy"] >= trained - 0.02
