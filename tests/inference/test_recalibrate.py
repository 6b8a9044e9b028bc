"""Recalibrating a checkpoint from a few labels of another site."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import bcd
from bcd.data.synthetic.smears import generate
from bcd.errors import BcdError
from bcd.evaluation.decision import DecisionPolicy
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.inference.recalibrate import recalibrate_checkpoint
from bcd.training.run import train
from tests.helpers.harness import (
    SMALL,
    eval_config,
    predict_config,
    predicted,
    script,
    train_config,
)

SLIDES, LABELLED = 18, 14
MAP = "data.map={healthy: benign, blast: malignant}"
Row = tuple[str, str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a site, and CSVs of all its images and of those of its first slides."""
    folder = tmp_path_factory.mktemp("recalibrated")
    settings = (*SMALL, "data.batch_size=4", f"data.root={folder / 'images'}")
    train(train_config(folder / "run", *settings))
    generate(folder / "site", count=8 * SLIDES, slides=SLIDES, size=48, seed=5)
    rows = rows_of(folder)
    write(folder / "site.csv", rows)
    write(folder / "labels.csv", [row for row in rows if int(row[2][5:]) < LABELLED])
    return folder


def rows_of(folder: Path) -> list[Row]:
    files = sorted((folder / "site").rglob("*.png"))
    kinds = ("healthy" if file.parent.name == "Benign" else "blast" for file in files)
    return [
        (file.relative_to(folder).as_posix(), kind, file.stem.partition("-")[0])
        for file, kind in zip(files, kinds, strict=True)
    ]


def write(file: Path, rows: Sequence[Row]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "class", "group"), *rows])
    return file


def recalibrated(folder: Path, out: Path, *overrides: str) -> dict[str, Any]:
    given = (f"ckpt={folder / 'run'}", "device=cpu", "data.num_workers=0", MAP, *overrides)
    return recalibrate_checkpoint(eval_config(out, *given))


def test_the_new_checkpoint_is_for_that_site_and_says_so(folder: Path, tmp_path: Path) -> None:
    found = recalibrated(folder, tmp_path, f"recalibrate={folder / 'labels.csv'}")
    assert list(found) == ["labels, before", "labels, after"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    (network, old), (other, card) = (
        load_checkpoint(file)
        for file in (folder / "run" / "checkpoints" / "best.ckpt", tmp_path / "recalibrated.ckpt")
    )
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert card.recalibration is not None
    record = card.recalibration
    rows = [row for row in rows_of(folder) if int(row[2][5:]) < LABELLED]
    assert record["n"] == len(record["images"]) == len(rows)
    assert record["n_malignant"] == sum(row[1] == "blast" for row in rows)
    assert record["n_groups"] == found["labels, after"]["n_groups"] == LABELLED
    assert record["site"] == "labels"
    before, after = (DecisionPolicy.from_plain(c.policy) for c in (old, card))
    assert record["temperature"] == [before.temperature, after.temperature]
    assert record["malignant_threshold"] == [before.malignant_threshold, after.malignant_threshold]
    assert after.guaranteed_sensitivity == pytest.approx(0.1 ** (1 / LABELLED))
    assert "a new group of labels" in after.population
    assert old.recalibration is None
    # By hand: malignancy is called from the lowest malignant score, or 0.5.
    records = bcd.load(tmp_path / "recalibrated.ckpt", device="cpu").predict(
        [folder / row[0] for row in rows], num_workers=0
    )
    p = np.array([1 - record["p_Benign"] for record in records])
    malignant = np.array([row[1] == "blast" for row in rows])
    assert after.malignant_threshold == pytest.approx(min(p[malignant].min(), 0.5), abs=1e-5)


def test_other_images_of_the_site_are_measured_before_and_after(
    folder: Path, tmp_path: Path
) -> None:
    rows = rows_of(folder)
    some = [row for i, row in enumerate(rows) if int(row[2][5:]) < LABELLED and i % 4 != 1]
    labels = write(folder / "some.csv", some)  # not all images of these slides
    root = f"data.root={folder / 'site.csv'}"
    found = recalibrated(folder, tmp_path, f"recalibrate={labels}", root)
    left = [row for row in rows if int(row[2][5:]) >= LABELLED]
    malignant = np.array([row[1] == "blast" for row in left])
    for when, ckpt in (("before", folder / "run"), ("after", tmp_path / "recalibrated.ckpt")):
        metrics = found[f"others, {when}"]
        assert (metrics["n"], metrics["n_groups"]) == (len(left), SLIDES - LABELLED)
        records = bcd.load(ckpt, device="cpu").predict([folder / r[0] for r in left], num_workers=0)
        called = np.array([record["malignant"] for record in records])
        refer = np.array([record["refer"] for record in records])
        p = np.array([1 - record["p_Benign"] for record in records])
        at = metrics["at_threshold"]
        assert at["malignant_sensitivity"] == pytest.approx(called[malignant].mean())
        assert at["malignant_specificity"] == pytest.approx((~called)[~malignant].mean())
        assert metrics["referred"] == pytest.approx(refer.mean())
        assert metrics["malignancy"]["loss"] == pytest.approx(
            -np.log(np.where(malignant, p, 1 - p)).mean(), abs=1e-5
        )


def test_the_labels_are_not_new_to_the_new_checkpoint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recalibrated(folder, tmp_path, f"recalibrate={folder / 'labels.csv'}")
    ckpt = tmp_path / "recalibrated.ckpt"
    given = (f"ckpt={ckpt}", "device=cpu", "data.num_workers=0", MAP)
    site = f"data.root={folder / 'site.csv'}"
    evaluate_checkpoint(eval_config(tmp_path / "a", *given, site))
    told = capsys.readouterr().err
    assert f"{8 * LABELLED} of {8 * SLIDES} images of site were trained or chosen on" in told
    assert f"from {LABELLED} malignant groups of the labels of labels" in told
    with pytest.raises(BcdError, match="so this is no external test"):
        evaluate_checkpoint(eval_config(tmp_path / "b", *given, site, "record=true"))
    again = eval_config(tmp_path / "c", *given, f"recalibrate={folder / 'labels.csv'}")
    with pytest.raises(BcdError, match="was recalibrated for labels"):
        recalibrate_checkpoint(again)


def test_without_groups_no_guarantee_is_of_new_groups(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(path, kind, "") for path, kind, _ in rows_of(folder)]
    first = cv2.imread(str(folder / rows[0][0]))
    assert first is not None
    # Overlaps the first image, but is another file.
    cv2.imwrite(str(folder / "first.png"), np.asarray(first, np.uint8) ^ 1)
    labels = write(folder / "ungrouped.csv", [*rows, ("first.png", rows[0][1], "")])
    pattern = "data.group_pattern=no group"
    recalibrated(folder, tmp_path, f"recalibrate={labels}", pattern)
    told = capsys.readouterr().err
    assert "warning: no image has a group" in told
    assert "images, those that overlap counted once, of the labels of ungrouped" in told
    assert "that images that do not overlap are independent" in told
    assert "Prediction sets contain every class, because some labels are only known" in told
    assert "new group" not in told and "malignant groups" not in told
    _, card = load_checkpoint(tmp_path / "recalibrated.ckpt")
    assert card.recalibration is not None
    assert card.recalibration["n_ungrouped"] == len(rows) + 1
    some = [row if i % 4 else ("", "", "") for i, row in enumerate(rows_of(folder))]
    mixed = [new if new[0] else old for new, old in zip(some, rows, strict=True)]
    recalibrated(folder, tmp_path, f"recalibrate={write(folder / 'mixed.csv', mixed)}", pattern)
    told = capsys.readouterr().err
    assert f"{len(rows) // 4} of {len(rows)} images have no group" in told
    assert f"{len(rows) // 4} of {len(rows)} images, which have no group, are independent" in told


def test_results_of_the_previous_threshold_are_dropped(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    site = f"data.root={folder / 'site.csv'}"
    given = (f"ckpt={run}", "device=cpu", "data.num_workers=0", MAP)
    evaluate_checkpoint(eval_config(tmp_path / "a", *given, site, "record=true"))
    assert len(load_checkpoint(run / "checkpoints" / "best.ckpt")[1].external) == 1
    labels = f"recalibrate={folder / 'labels.csv'}"
    recalibrate_checkpoint(eval_config(tmp_path / "b", *given, labels))
    assert load_checkpoint(tmp_path / "b" / "recalibrated.ckpt")[1].external == []


def test_what_cannot_be_promised_is_refused(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder)
    few = write(folder / "few.csv", [row for row in rows if int(row[2][5:]) < 10])
    with pytest.raises(BcdError, match="10 malignant and 10 benign groups are labelled"):
        recalibrated(folder, tmp_path, f"recalibrate={few}")
    recalibrated(folder, tmp_path, f"recalibrate={few}", "min_sensitivity=0.75")
    blasts = write(folder / "blasts.csv", [row for row in rows if row[1] == "blast"])
    with pytest.raises(BcdError, match="there are no benign images among the 108 labels"):
        recalibrated(folder, tmp_path, f"recalibrate={blasts}", f"data.root={folder / 'site.csv'}")
    own = sorted((folder / "images").rglob("*.png"))
    trained = write(
        folder / "own.csv",
        [(os.path.relpath(file, folder), "blast", "") for file in own],
    )
    with pytest.raises(BcdError, match=r"\d+ of 48 images were trained or chosen on"):
        recalibrated(folder, tmp_path, f"recalibrate={trained}", f"data.root={folder / 'site.csv'}")


def test_the_command_line_prints_both_and_writes_the_checkpoint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = script(
        "eval.py", f"ckpt={folder / 'run'}", "device=cpu", f"hydra.run.dir={tmp_path}", MAP,
        f"recalibrate={folder / 'labels.csv'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    n = 8 * LABELLED
    assert f"with {n} labels ({6 * LABELLED} malignant, {2 * LABELLED} benign)" in done.stderr
    image = next((folder / "site").rglob("*.png"))
    given = (f"ckpt={tmp_path / 'recalibrated.ckpt'}", f"input={image}", "num_workers=0")
    predicted(predict_config(tmp_path, *given, f"output={tmp_path / 'p.csv'}", "device=cpu"))
    assert "recalibrated for labels, for its images only" in capsys.readouterr().err
    with pytest.raises(BcdError, match=r"nosuch\.csv: no such file"):
        recalibrated(folder, tmp_path / "no", f"recalibrate={tmp_path / 'nosuch.csv'}")
