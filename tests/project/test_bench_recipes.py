"""The table of recipes that `bench.recipes` prints, from runs that already exist."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.recipes import FOLDS, SITE, main

REPORT = "report.html"


def part(n: int, benign: int, right: int, missed: int, alarms: int, away: int) -> dict[str, Any]:
    """What `metrics.json` says of a test set."""
    return {
        "n": n,
        "n_malignant": n - benign,
        "n_benign": benign,
        "accuracy": right / n,
        "at_threshold": {"malignant_specificity": 0.25},
        "n_unsafe_malignant": missed,
        "n_unsafe_benign": alarms,
        "referred": away / n,
    }


def write(folder: Path, content: dict[str, Any], report: bool = True) -> None:
    """Writes what training leaves, or without a report what `bcd eval` does."""
    folder.mkdir(parents=True)
    if report:
        (folder / REPORT).touch()
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Runs of one recipe: each fold has other numbers of images, benign ones and mistakes."""
    paper = tmp_path / "paper"
    write(paper / "random-0", {"test": part(100, 20, 97, 4, 1, 5)})
    write(paper / "grouped-0", {"test": part(50, 10, 45, 2, 1, 5)})
    for fold in range(FOLDS):
        n, benign = 20 + 10 * fold, 4 * fold  # the first fold has no benign image
        write(paper / f"folds-{fold}", {"test": part(n, benign, n - fold, fold, fold // 2, 1)})
    site = part(40, 40, 0, 0, 2, 36)
    del site["accuracy"]
    site["referral_reasons"] = {"out of distribution": 30, "low confidence": 10}
    write(paper / "grouped-0" / "site", {SITE: site}, report=False)
    write(paper / "grouped-0" / "corruptions", {}, report=False)
    with (paper / "grouped-0" / "corruptions" / "robustness.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        names = ("accuracy", "unsafe_malignant", "unsafe_benign", "referred", "n")
        rows.writerow(("kind", "strength", *names))
        rows.writerow(("none", "", 1.0, 0.0, 0.0, 0.0, 50))
        rows.writerow(("grey", "full", 0.5, 0.1, 0.2, 0.9, 50))
        rows.writerow(("blur", "5x5", 0.7, 0.0, 0.1, 0.3, 50))
    return tmp_path


def test_it_pools_folds_and_averages_corruptions(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["recipes", "data", "cells", "--work", str(work), "--recipes", "paper"]
    monkeypatch.setattr(sys, "argv", given)
    main()
    said = capsys.readouterr().out.splitlines()
    # n is 20, 30, 40, 50, 60; benign 0, 4, 8, 12, 16; the others have 160 malignant images.
    folds = (190 / 200, 10 / 160, (0 + 1 + 1 + 2) / 40, 5 / 200)
    expected = {
        "random": (100, 0.97, 4 / 80, 1 / 20, 0.05),
        "grouped": (50, 0.9, 2 / 40, 1 / 10, 0.1),
        "folds": (200, *folds),
        "grouped, mean of 2 corruptions": (50, 0.6, 0.05, 0.15, 0.6),
        "grouped, worst of 2 corruptions": (50, 0.5, 0.1, 0.2, 0.9),
    }
    for name, (n, *shares) in expected.items():
        assert f"| {name} | paper | {n} | {' | '.join(f'{s:.3f}' for s in shares)} |" in said
    assert "| another hospital, all benign | paper | 40 | 0.250 |  | 0.050 | 0.900 |" in said
    assert "| paper | 40 | 0.250 | 0.750 |" in said  # low confidence, out of distribution
    assert "| grey full | 0.500, 0.100, 0.900 |" in said
    assert not any(line.startswith("| none") for line in said)
