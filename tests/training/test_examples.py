"""The answers that a report shows: cards of errors, nearest training images, attributions."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bcd.data.synthetic.smears import CLASS_NAMES, generate
from bcd.errors import ConfigError
from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config

FROZEN = ("model=mobilenetv2", "model.weights=null", "model.input_size=48", "augment=none")


FIRST = '<section id="intended-use"'  # below the samples of the first screen


class Cards(HTMLParser):
    """Lines and text alternatives of each card, and paragraphs, of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.alternatives: list[list[str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(
            page[page.index('<section id="intended-use"') :]
        )  # below the samples of the first screen
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "figure" and given.get("class") == "card":
            self.lines.append([])
            self.alternatives.append([])
        if tag == "img" and "figure" in self._open:
            self.alternatives[-1].append(given["alt"] or "")
        if tag not in ("img", "meta"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "figcaption" in self._open:
            self.lines[-1].append(data)
        self.texts.append(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smears of which each second one has a copy under another class."""
    root = tmp_path_factory.mktemp("examples") / "in"
    generate(root, count=48, slides=4, size=48)
    (root / "generated.json").unlink()  # from here on these are anybody's images
    for number, file in enumerate(sorted(root.rglob("*.png"))[::2]):
        other = CLASS_NAMES[(CLASS_NAMES.index(file.parent.name) + 1) % len(CLASS_NAMES)]
        shutil.copy(file, root / other / f"copy-{number}.png")
    return root


def run(folder: Path, root: Path, *overrides: str) -> Cards:
    small = [word for word in SMALL if not word.startswith("data=") and "generate" not in word]
    train(train_config(folder, *small, f"data.root={root}", "logger=none", *overrides))
    return Cards((folder / "report.html").read_text(encoding="utf-8"))


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_errors_are_shown_beside_the_nearest_training_image(root: Path, tmp_path: Path) -> None:
    page = run(tmp_path / "run", root, *FROZEN)
    rows = {row["path"]: row for row in read(tmp_path / "run" / "predictions.csv")}
    subset = {row["path"]: row["subset"] for row in read(tmp_path / "run" / "split.csv")}
    partner: dict[str, str] = {}
    for pair in read(tmp_path / "run" / "pairs.csv"):
        if pair["kind"] == "bytes":
            partner |= {pair["path_a"]: pair["path_b"], pair["path_b"]: pair["path_a"]}
    wrong = {path for path, row in rows.items() if row["prediction"] != row["label"]}
    assert {lines[-1] for lines in page.lines} == wrong
    with_copy = 0
    for lines, alternatives in zip(page.lines, page.alternatives, strict=True):
        row = rows[lines[-1]]
        answer = f"{row['label']} called {row['prediction']}"
        assert lines[0] == answer and alternatives[0] == f"Test image: {answer}"
        assert f"{row['prediction']} {100 * float(row['probability']):.1f} %" in lines[1]
        referred = row["reason"].replace("; ", ", ")
        assert lines[2] == (f"Referred: {referred}" if referred else "Not referred")
        (near,) = [line for line in lines if line.startswith("Nearest training image")]
        copy = partner.get(lines[-1], "")
        if subset.get(copy) == "train":
            with_copy += 1
            name = copy.partition("/")[0]
            assert near == f"Nearest training image: {name}, similarity 1.00, overlaps by 100 %"
            assert alternatives[1] == f"Nearest training image: {name}"
    assert with_copy >= 3
    pairs = [text for text in page.texts if text.startswith("Confused: ")]
    counts = [int(part.split(": ")[-1].split(" of ")[0]) for part in pairs[0].split("; ")]
    assert 0 < sum(counts) <= len(wrong)


def headings(folder: Path) -> set[str]:
    page = (folder / "report.html").read_text(encoding="utf-8")
    return set(re.findall(r"<h2>(.*?)</h2>", page))


@pytest.mark.parametrize("roi", ["image", "cells"])
def test_a_full_report_shows_more_answers_with_attributions(
    root: Path, tmp_path: Path, roi: str
) -> None:
    trained = ("model.unfreeze=0", "data.roi=cells") if roi == "cells" else ()
    page = run(tmp_path / "full", root, "report=full", *trained)
    rows = {row["path"]: row for row in read(tmp_path / "full" / "predictions.csv")}
    right = [path for path, row in rows.items() if row["prediction"] == row["label"]]
    assert {lines[-1] for lines in page.lines} & set(right)
    for lines, alternatives in zip(page.lines, page.alternatives, strict=True):
        assert sum(text.startswith("What the answer rests on") for text in alternatives) == 1
        assert sum(line.startswith("Nearest training image") for line in lines) == 1
    assert headings(tmp_path / "full") >= {"Attribution", "White cells"}
    (section,) = re.findall(
        r'<section id="attribution">(.*?)</section>',
        (tmp_path / "full" / "report.html").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    for name in ("white cells", "red cells", "background", "scale bar", "head and last half"):
        assert f">{name}<" in section
    measured = read(tmp_path / "full" / "cells.csv")
    assert [row["path"] for row in measured] == list(rows)
    assert {row["path"]: row["class"] for row in measured} == {
        path: row["label"] for path, row in rows.items()
    }


def test_a_brief_report_needs_no_second_pass(root: Path, tmp_path: Path) -> None:
    page = run(tmp_path / "brief", root)
    assert not headings(tmp_path / "brief") & {"Attribution", "White cells"}
    assert not (tmp_path / "brief" / "cells.csv").exists()
    assert {lines[-1] for lines in page.lines} == {
        row["path"]
        for row in read(tmp_path / "brief" / "predictions.csv")
        if row["prediction"] != row["label"]
    }
    # Its features would need a pass over all training images; known overlaps need none.
    assert not any("Nearest" in line for lines in page.lines for line in lines)
    assert any("Overlapping training image" in line for lines in page.lines for line in lines)
    assert not any("rests on" in text for texts in page.alternatives for text in texts)


def test_the_report_is_brief_or_full(tmp_path: Path) -> None:
    assert train_config(tmp_path).report == "brief"
    with pytest.raises(ConfigError, match="report=ful: choose brief or full; did you mean 'full'"):
        train_config(tmp_path, "report=ful")


def test_a_run_of_a_sweep_gets_the_brief_report_and_says_so(root: Path, tmp_path: Path) -> None:
    small = [word for word in SMALL if not word.startswith("data=") and "generate" not in word]
    words = [*small, f"data.root={root}", "logger=none", "report=full", "trainer.max_epochs=1"]
    train(train_config(tmp_path / "trial", *words), tested=False)
    assert "\nreport: brief\n" in (tmp_path / "trial" / "config.yaml").read_text()
    warnings = json.loads((tmp_path / "trial" / "run.json").read_text())["warnings"]
    assert any(
        line.startswith("report=full has no effect in a run of a sweep") for line in warnings
    )
    assert not (tmp_path / "trial" / "report.html").exists()
