"""`bcd.load`: the rows of predictions.csv, from Python."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import bcd
from bcd.errors import BcdError
from tests.helpers.harness import predict_config, predicted
from tests.helpers.noise import noise, write_image


@pytest.fixture(scope="module")
def run(small: Path) -> Path:
    return small


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        write_image(tmp_path / "new" / f"{number}.png", noise(number, number, size=50 + number))
    (tmp_path / "new" / "torn.png").write_bytes(b"\x89PNG\r\n")
    return tmp_path / "new"


def as_csv(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def test_rows_are_those_that_bcd_predict_writes(run: Path, images: Path, tmp_path: Path) -> None:
    settings = (f"ckpt={run}", f"input={images}", "device=cpu", "num_workers=0")
    predicted(predict_config(tmp_path, *settings))
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    rows = bcd.load(run, device="cpu").predict(images)
    assert [{name: as_csv(value) for name, value in row.items()} for row in rows] == written
    assert [row["error"] != "" for row in rows] == [False, False, False, True]
    assert rows[-1]["refer"] is True and rows[-1]["prediction"] == ""
    assert sum(v for k, v in rows[0].items() if k.startswith("p_")) == pytest.approx(1)


def test_a_file_a_list_and_a_glob_are_accepted(run: Path, images: Path) -> None:
    predictor = bcd.load(str(run / "checkpoints" / "best.ckpt"), device="cpu")
    one, two = images / "0.png", images / "1.png"
    rows = predictor.predict([one, str(two)], batch_size=1, num_workers=0)
    assert [row["path"] for row in rows] == [str(one), str(two)]
    assert predictor.predict(one, num_workers=0)[0]["path"] == str(one)
    assert len(predictor.predict(f"{images}/[01].png", num_workers=0)) == 2
    with pytest.raises(BcdError, match="no image there"):
        predictor.predict(images / "missing.png")


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BcdError, match="no checkpoint there"):
        bcd.load(tmp_path)
