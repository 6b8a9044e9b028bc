"""Evaluation on other sites: figures against a computation by hand, and what is recorded."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bcd
from bcd.data.synthetic.smears import generate
from bcd.errors import BcdError
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.training.run import train
from tests.helpers.harness import (
    SMALL,
    assert_same_figures,
    eval_config,
    script,
    train_config,
    warnings,
)

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and two other sites whose folders have other names, with a CSV of both."""
    folder = tmp_path_factory.mktemp("external")
    settings = (*SMALL, "data.batch_size=4", f"data.root={folder / 'images'}")
    train(train_config(folder / "run", *settings))
    rows = [*_site(folder, "north", 5, ""), *_site(folder, "south", 6, "Pro-B")]
    _write(folder / "sites.csv", rows)
    return folder


def _site(folder: Path, name: str, seed: int, kept: str) -> list[list[str]]:
    """Generates a site with one of the model's names, and the others as `healthy` and `blast`."""
    generate(folder / f"{name}-drawn", count=40, slides=4, size=48, seed=seed)
    rows = []
    for file in sorted((folder / f"{name}-drawn").rglob("*.png")):
        label = file.parent.name
        other = "healthy" if label == "Benign" else "blast"
        place = folder / name / (label if label == kept else other) / f"{label} {file.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        slide = file.stem.partition("-")[0]
        path = place.relative_to(folder).as_posix()
        rows.append([path, place.parent.name, slide, name])
    return rows


def _rows(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))[1:]


def _write(file: Path, rows: Sequence[Sequence[str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["path", "class", "group", "site"], *rows])
    return file


MAP = "data.map={healthy: benign, blast: malignant}"


def evaluated(folder: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """Metrics by the name of the set or site."""
    given = (f"ckpt={folder / 'run'}", "device=cpu", "data.num_workers=0", *overrides)
    return {name: r.metrics for name, r in evaluate_checkpoint(eval_config(out, *given)).items()}


def by_hand(folder: Path, name: str) -> tuple[Records, np.ndarray]:
    """What the checkpoint answers to each image of a site, and which are malignant."""
    files = sorted((folder / name).rglob("*.png"))
    records = bcd.load(folder / "run", device="cpu").predict(files, num_workers=0)
    return records, np.array([not file.name.startswith("Benign") for file in files])


def assert_as_by_hand(metrics: dict[str, Any], records: Records, malignant: np.ndarray) -> None:
    p = np.array([1 - record["p_Benign"] for record in records])
    called = np.array([record["malignant"] for record in records])
    refer = np.array([record["refer"] for record in records])
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(p[malignant], p[~malignant])]
    expected = {
        "malignancy.auroc": np.mean(pairs),
        "malignancy.loss": -np.log(np.where(malignant, p, 1 - p)).mean(),
        "malignancy.brier": 2 * np.square(p - malignant).mean(),
        "at_threshold.malignant_sensitivity": called[malignant].mean(),
        "at_threshold.malignant_specificity": (~called[~malignant]).mean(),
        "unsafe_malignant": (~called & ~refer)[malignant].mean(),
        "unsafe_benign": (called & ~refer)[~malignant].mean(),
        "referred": refer.mean(),
    }
    for name, value in expected.items():
        outer, _, inner = name.partition(".")
        found = metrics[outer][inner] if inner else metrics[outer]
        assert found == pytest.approx(value, abs=1e-5), name
    for reason, count in metrics["referral_reasons"].items():
        assert count == sum(reason in record["reason"].split("; ") for record in records)
    assert (metrics["n_malignant"], metrics["n"]) == (malignant.sum(), len(p))


def test_one_site_with_a_map_equals_a_computation_by_hand(folder: Path, tmp_path: Path) -> None:
    found = evaluated(folder, tmp_path, f"data.root={folder / 'north'}", MAP)
    assert list(found) == ["all"]
    assert_as_by_hand(found["all"], *by_hand(folder, "north"))
    assert "accuracy" not in found["all"]  # which class a blast is, is unknown
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(newline="", encoding="utf-8")))
    assert {row["label"] for row in rows} == {"Benign", "malignant"}
    assert "p_malignant" not in rows[0]


def test_the_table_of_one_site_has_all_that_is_promised(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    rows = [row for row in _rows(folder / "sites.csv") if row[3] == "north"]
    file = _write(folder / "north only.csv", rows)
    metrics = evaluated(folder, tmp_path, f"data.root={file}", MAP)["all"]
    told = capsys.readouterr().err
    assert f"best.ckpt on {file}\n" in told
    shown = ["Brier score, ", "calibration error (debiased), ", "of a calibrated model, "]
    assert all(title in told for title in (*shown, *metrics["referral_reasons"]))
    assert "not established for north." in told


def test_two_sites_come_after_the_own_test_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = ", ".join(
        f"{name}: {{root: {folder / name}, group_pattern: no group, "
        f"map: {{healthy: benign, blast: {blast}}}}}"
        for name, blast in (("north", "malignant"), ("south", "null"))
    )
    found = evaluated(folder, tmp_path, f"sites={{{sites}}}")
    assert list(found) == ["test", "north", "south"]
    own = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert found["test"]["accuracy"] == own["accuracy"]
    assert_same_figures(found["test"]["malignancy"], own["malignancy"])
    assert_as_by_hand(found["north"], *by_hand(folder, "north"))
    records, malignant = by_hand(folder, "south")
    kept = [i for i, r in enumerate(records) if f"{os.sep}blast{os.sep}" not in r["path"]]
    assert len(kept) == 20
    assert_as_by_hand(found["south"], [records[i] for i in kept], malignant[kept])
    # Every remaining name is a class of the model.
    predicted = [records[i]["prediction"] == ("Pro-B" if malignant[i] else "Benign") for i in kept]
    assert found["south"]["accuracy"] == pytest.approx(np.mean(predicted))
    assert (tmp_path / "south" / "predictions.csv").is_file()
    told = capsys.readouterr().err
    assert "north: no image has a group" in told
    assert "of the training images' source; not established for north, south." in told


def test_a_csv_divides_sites_and_intervals_are_over_its_groups(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(folder, tmp_path, f"data.root={folder / 'sites.csv'}", MAP)
    assert list(found) == ["test", "north", "south"]
    for name in ("north", "south"):
        records, malignant = by_hand(folder, name)
        assert_as_by_hand(found[name], records, malignant)
        slides = [Path(record["path"]).stem.split()[-1].partition("-")[0] for record in records]
        assert found[name]["n_groups"] == len(set(slides)) == 4
        called = np.array([record["malignant"] for record in records])
        expected = confusion_intervals(
            malignant.astype(np.int64), called.astype(np.int64), ("b", "m"), 0, slides
        )
        at = found[name]["at_threshold"]
        for rate in ("malignant_sensitivity", "malignant_specificity"):
            assert at[f"{rate}_ci"] == pytest.approx(expected[rate])
    assert "no image has a group" not in capsys.readouterr().err


def test_a_site_of_one_class_has_no_auroc_and_says_why(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = "data.map={healthy: benign, blast: null, Pro-B: null}"
    found = evaluated(folder, tmp_path, f"data.root={folder / 'south'}", site)["all"]
    assert found["malignancy"]["auroc"] is None
    assert found["at_threshold"]["malignant_sensitivity"] is None
    assert found["unsafe_malignant"] is None
    records, malignant = by_hand(folder, "south")
    called = np.array([record["malignant"] for record in records])[~malignant]
    assert found["at_threshold"]["malignant_specificity"] == pytest.approx((~called).mean())
    assert "no AUROC of malignancy: all images are benign" in capsys.readouterr().err


def test_records_are_kept_by_content(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "run", tmp_path / "run")
    best = run / "checkpoints" / "best.ckpt"
    before = best.stat().st_mtime_ns
    given = (f"ckpt={run}", "record=true", MAP)

    def recorded() -> list[dict[str, Any]]:
        return load_checkpoint(best)[1].external

    metrics = evaluated(folder, tmp_path / "a", *given, f"data.root={folder / 'sites.csv'}")
    first = recorded()
    assert [record["site"] for record in first] == ["north", "south"]
    assert first[0]["metrics"]["malignancy"] == metrics["north"]["malignancy"]
    assert first[0]["metrics"]["n_groups"] == 4
    assert best.stat().st_mtime_ns == before
    page, card = ((run / name).read_text() for name in ("report.html", "model_card.md"))
    evaluated(folder, tmp_path / "b", *given, f"data.root={folder / 'sites.csv'}")
    assert recorded() == first
    assert (run / "report.html").read_text() == page
    assert (run / "model_card.md").read_text() == card
    # The same images under another name, without groups.
    moved = shutil.copytree(folder / "north", tmp_path / "the north")
    evaluated(folder, tmp_path / "c", *given, f"data.root={moved}")
    assert [record["site"] for record in recorded()] == ["the north", "south"]
    for name in ("report.html", "model_card.md"):
        text = (run / name).read_text()
        assert len(re.findall(r"^## External testing$|^<h2>External testing<", text, re.M)) == 1
        titles = [line.strip("# ") for line in re.findall(r"^## .*|(?<=<h2>)[^<]*", text, re.M)]
        assert titles[-3:] == ["Failures", "External testing", "Limits"]
        assert "the north" in text
        assert "south: 4 groups correspond to" in text
        assert ">north<" not in text and "| north |" not in text
    assert evaluated(folder, tmp_path / "d", f"ckpt={run}")["test"]["n"] > 0


def test_only_other_sites_are_recorded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BcdError, match="record=true: writes results on other sites"):
        evaluated(folder, tmp_path, "record=true")
    mixed = shutil.copytree(folder / "images", tmp_path / "mixed")
    with pytest.raises(BcdError, match=r"of \d+ images of mixed were trained"):
        evaluated(folder, tmp_path, "record=true", f"data.root={mixed}")


def test_without_the_runs_images_only_the_sites_are_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = (folder / "images").rename(folder / "hidden")
    try:
        found = evaluated(folder, tmp_path, f"data.root={folder / 'sites.csv'}", MAP)
    finally:
        hidden.rename(folder / "images")
    assert list(found) == ["north", "south"]
    assert "its own test set is left out" in capsys.readouterr().err


def test_a_site_has_no_name_of_a_subset(folder: Path, tmp_path: Path) -> None:
    rows = [[*row[:3], "test"] for row in _rows(folder / "sites.csv")[:4]]
    file = _write(folder / "named.csv", rows)
    with pytest.raises(BcdError, match="has a site 'test'"):
        evaluated(folder, tmp_path, f"data.root={file}", "data.map=benign")


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.map={a: benign}"], "data.map: applies only to another site"),
        (["sites={all: {root: x}}"], "sites.all: give the site another name"),
        (["sites={a: {rot: x}}"], "sites.a.rot: unknown key; did you mean 'root'"),
        (["sites={a: {map: benign}}"], "sites.a.root is missing"),
        (["sites={a: {root: x, map: [b]}}"], r"sites.a.map=\['b'\]: give '{name: class}', one"),
        (["data.map=[b]"], r"data.map=\['b'\] \(configuration\): give '{name: class}', one class"),
        (["sites={a: {root: x}}", "data.map=benign"], "data.map: with sites"),
        (["sites={a: {root: x}}", "subset=test"], "subset=test: with sites"),
        (["sites={a: {root: x}}", "recalibrate=x"], "sites: cannot be combined"),
        (["record=true", "uncalibrated=true"], "uncalibrated=true: cannot be combined"),
    ],
)
def test_what_makes_no_sense_is_refused(
    overrides: list[str], part: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BcdError, match=part):
        evaluated(folder, tmp_path, *overrides)


def test_the_command_line_takes_sites_one_by_one(folder: Path, tmp_path: Path) -> None:
    north = (folder / "north").rename(folder / "north, new")
    try:
        done = script(
            "eval.py", f"ckpt={folder / 'run'}", "device=cpu", f"hydra.run.dir={tmp_path}",
            f"sites.north.root={north}", "+sites.north.map={healthy: benign, blast: malignant}",
        )  # fmt: skip
    finally:
        north.rename(folder / "north")
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["test", "north"]
    expected = ("groups correspond", "differ from the training images")
    assert all(any(part in line for part in expected) for line in warnings(done.stderr))
