"""The report and the model card of a run on generated smears."""

from __future__ import annotations

import base64
import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bcd.reporting.document import Section, Table, write_html, write_markdown
from tests.helpers.pages import Page

SECTIONS = [
    "Intended use",
    "Data flow",
    "Separation and leaks",
    "Model",
    "Results",
    "Shortcuts",
    "Calibration",
    "Threshold",
    "Abstention and referral",
    "Corruption",
    "Failures",
    "Limits",
]


@pytest.fixture(scope="module")
def test(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())["test"]
    return found


@pytest.fixture(scope="module")
def sections(run: Path) -> list[str]:
    """Titles of the report; warnings come first, as so small a run is no better than guessing."""
    (warning,) = json.loads((run / "run.json").read_text())["warnings"]
    assert "the loss of guessing" in warning
    return ["Warnings", *SECTIONS]


def test_the_report_follows_the_order_of_checklists(run: Path, sections: list[str]) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.headings == sections
    assert "not a medical device and must not be used for diagnosis" in page.text
    assert "The checkpoint was chosen on val, by val/loss (min)." in page.text
    assert "The run evaluated its test set once, after training." in page.text
    assert "see no cell" not in page.text


def test_every_headline_metric_has_its_interval(run: Path, test: dict[str, Any]) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    for name in ("accuracy", "precision", "recall", "f1", "malignant sensitivity"):
        key = name.replace(" ", "_")
        low, high = test[f"{key}_ci"]
        assert low <= test[key] <= high
        cell = page.cells[page.cells.index(name) + 2]
        assert cell == f"{test[key]:.4f} [{low:.3f}, {high:.3f}]"
    assert test["n_groups"] == 4  # the drawn slides; images of one are not independent
    assert "cluster bootstrap over 4 groups" in page.text
    assert (
        f"4 groups correspond to {test['effective_groups']:.1f} groups of equal size" in page.text
    )


def test_unsafe_answers_are_beside_accuracy(run: Path, test: dict[str, Any]) -> None:
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] != "Benign"]
    unsafe = sum(row["malignant"] == "false" and row["refer"] == "false" for row in rows)
    assert (test["n_unsafe_malignant"], test["n_malignant"]) == (unsafe, len(rows))
    assert test["unsafe_malignant"] == pytest.approx(unsafe / len(rows))
    low, high = test["unsafe_malignant_ci"]
    assert low <= test["unsafe_malignant"] <= high and high > 0
    shown = f"{unsafe / len(rows):.4f} [{low:.3f}, {high:.3f}]"
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    at = page.cells.index("unsafe, of malignant images")
    assert page.cells[at - 3] == "accuracy" and page.cells[at + 2] == shown
    card = (run / "model_card.md").read_text(encoding="utf-8")
    assert (
        f"{unsafe} of {len(rows)} malignant images are called benign and not referred: {shown}"
        in card
    )


def test_the_calibration_error_is_compared_with_that_of_a_calibrated_model(
    run: Path, test: dict[str, Any]
) -> None:
    assert "ece_ci" not in test
    assert 0 <= test["ece_debiased"] <= test["ece"]
    chance = test["ece_if_calibrated"]
    assert 0 < chance["mean"] < chance["quantile_95"]
    page = (run / "report.html").read_text()
    for figure in (test["ece_debiased"], *chance.values()):
        assert f" {figure:.4f}" in page.partition("Calibration</h2>")[2].partition("<h2")[0]


def test_the_report_is_self_contained_and_shows_each_figure_once(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"url\((?!#)|@import|<script src|<iframe|http:|https:", text)
    drawn = [base64.b64encode(file.read_bytes()).decode() for file in run.glob("figures/*.png")]
    embedded = [source.removeprefix("data:image/png;base64,") for source in page.sources]
    assert all(embedded.count(figure) == 1 for figure in drawn)
    assert len(list((run / "figures").glob("*.svg"))) == page.tags.count("svg") >= 4
    assert all(source.startswith("data:image/") for source in page.sources)
    # One image of each class, and the gallery of errors.
    assert len(page.sources) == page.tags.count("img") > len(drawn) + 4
    identifiers = re.findall(r' id="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers)) > 0


def test_the_model_card_has_the_same_content(
    run: Path, test: dict[str, Any], sections: list[str]
) -> None:
    card = (run / "model_card.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == sections
    assert f"| images | {json.loads((run / 'metrics.json').read_text())['val']['n']} |" in card
    assert f"{test['accuracy']:.4f}" in card
    assert "grey full" in card


def test_the_report_has_corruptions_by_default(run: Path) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    at = page.cells.index("uncorrupted")
    assert page.cells[at + 8 :: 8][:3] == [
        "grey full",
        "jpeg quality 30",
        "gaussian blur 5x5, sd 1.5",
    ]


def test_external_text_is_escaped(tmp_path: Path) -> None:
    odd = '<img src=x onerror="alert(1)">|a&lt;b'
    sections = [Section(odd, [odd, Table([odd, "b"], [[odd, "1"]])])]
    write_html(tmp_path / "a.html", odd, sections)
    page = Page((tmp_path / "a.html").read_text())
    assert "img" not in page.tags
    assert page.cells == [odd, "b", odd, "1"]
    assert page.headings == [odd]
    write_markdown(tmp_path / "a.md", "x", sections)
    row = (tmp_path / "a.md").read_text().splitlines()[-1]
    assert row == "| " + odd.replace("|", "\\|") + " | 1 |"
