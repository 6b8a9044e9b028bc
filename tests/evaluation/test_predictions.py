"""`predictions.csv` and `.json`, read back with standard readers."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import pytest

from bcd.evaluation.predictions import Prediction, prediction_record, write_predictions

CLASSES = ("Benign", "Early Pre-B", "Pro-B")
HEADER = (
    "path,label,prediction,probability,p_Benign,p_Early Pre-B,p_Pro-B,malignant,refer,reason,error"
)

ROWS = (
    Prediction("Benign/1.png", "Benign", (0.7, 0.2, 0.1), malignant=True),
    Prediction("unknown.png", "", (0.25, 0.25 - 1e-7, 0.5 + 1e-7), malignant=False),
    Prediction('odd, "quoted"; = naïve/图 1\n.png', "Pro-B", (1.0, 0.0, 0.0)),
    Prediction("gone.png", "", (), 'cannot be read (No such file, or "none")', ("unreadable",)),
    Prediction("two.png", "", (0.4, 0.3, 0.3), refer=("low confidence", "threshold disagrees")),
    Prediction("nan.png", "", (), refer=("not finite",)),
)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, strict=True))


@pytest.fixture
def table(tmp_path: Path) -> list[dict[str, str]]:
    write_predictions(tmp_path / "predictions.csv", ROWS, CLASSES)
    return read(tmp_path / "predictions.csv")


def test_there_is_one_header_and_a_row_for_each_image_in_order(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "predictions.csv"
    write_predictions(file, ROWS, CLASSES)
    text = file.read_bytes().decode("utf-8")
    assert text.split("\n")[0] == HEADER
    assert text.count("p_Benign") == 1
    assert "\r" not in text
    assert text.endswith("\n")
    assert [row["path"] for row in read(file)] == [row.path for row in ROWS]


def test_a_row_has_the_path_the_prediction_and_all_probabilities(
    table: list[dict[str, str]],
) -> None:
    for row, given in zip(ROWS[:3], table, strict=False):
        reported = [float(given[f"p_{name}"]) for name in CLASSES]
        assert reported == pytest.approx(row.probabilities, abs=1e-6)
        assert given["label"] == row.label
        assert given["prediction"] == CLASSES[row.probabilities.index(max(row.probabilities))]
        assert float(given["probability"]) == max(reported)
        assert given["malignant"] == {True: "true", False: "false", None: ""}[row.malignant]
        assert (given["refer"], given["reason"], given["error"]) == ("false", "", "")


def test_an_unreadable_image_has_a_reason_and_is_referred(
    table: list[dict[str, str]],
) -> None:
    row = table[3]
    assert row["error"] == ROWS[3].error
    assert (row["refer"], row["reason"]) == ("true", "unreadable")
    empty = ["label", "prediction", "probability", "malignant", *(f"p_{n}" for n in CLASSES)]
    assert {row[name] for name in empty} == {""}


def test_all_reasons_are_listed(table: list[dict[str, str]]) -> None:
    reasons = "low confidence; threshold disagrees"
    assert (table[4]["refer"], table[4]["reason"]) == ("true", reasons)


def test_a_prediction_that_is_not_finite_is_empty(table: list[dict[str, str]]) -> None:
    row = table[5]
    assert (row["refer"], row["reason"], row["error"]) == ("true", "not finite", "")
    empty = ["prediction", "probability", "malignant", *(f"p_{n}" for n in CLASSES)]
    assert {row[name] for name in empty} == {""}


def test_a_missing_prediction_without_a_reason_is_referred_as_unreadable() -> None:
    record = prediction_record(Prediction("a.png", "", (), "gone"), CLASSES)
    assert (record["refer"], record["reason"]) == (True, "unreadable")


@pytest.mark.parametrize("name", ["p.json", "P.JSON"])
def test_json_has_the_same_values_with_types(name: str, tmp_path: Path) -> None:
    write_predictions(tmp_path / name, ROWS, CLASSES)
    records = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    assert [",".join(record) for record in records] == [HEADER] * len(ROWS)
    assert [record["path"] for record in records] == [row.path for row in ROWS]
    for row, record in zip(ROWS, records, strict=True):
        reported = [record[f"p_{n}"] for n in CLASSES]
        assert reported == ([*row.probabilities] if row.probabilities else [None] * 3)
        assert record["probability"] == max(row.probabilities, default=None)
        assert record["malignant"] is row.malignant
        assert record["refer"] is bool(row.refer)


def test_csv_and_json_agree(table: list[dict[str, str]], tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.json", ROWS, CLASSES)
    for record, row in zip(json.loads((tmp_path / "p.json").read_text()), table, strict=True):
        for name, value in record.items():
            if isinstance(value, float):
                assert float(row[name]) == pytest.approx(value, abs=1e-6)
            elif isinstance(value, str):
                assert row[name] == value
            else:
                assert row[name] == ("" if value is None else str(value).lower()), name


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
@pytest.mark.parametrize("name", ["p.csv", "p.json"])
def test_a_file_name_that_is_not_utf8_does_not_affect_other_rows(name: str, tmp_path: Path) -> None:
    odd = b"Pr\xfcfung.png".decode("utf-8", "surrogateescape")  # as Linux hands such names over
    write_predictions(tmp_path / name, [Prediction(odd, "", (1.0, 0.0, 0.0)), *ROWS], CLASSES)
    text = (tmp_path / name).read_bytes().decode("utf-8")
    rows = json.loads(text) if name == "p.json" else read(tmp_path / name)
    assert len(rows) == 1 + len(ROWS)
    assert rows[0]["path"] == r"Pr\xfcfung.png"


@pytest.mark.parametrize("name", ["p.csv", "p.json"])
def test_a_failure_keeps_the_previous_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    file = tmp_path / name
    write_predictions(file, ROWS[:1], CLASSES)
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            write_predictions(file, ROWS, CLASSES)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    write_predictions(file, ROWS, CLASSES)
    assert file.read_bytes() != before
    assert list(tmp_path.iterdir()) == [file]
