"""Predicts into a folder of parts, and reads what is there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from bcd.data.items import Item, Wanted
from bcd.evaluation.predictions import Prediction
from bcd.inference.predict import predict
from tests.helpers.harness import predict_config

COUNT, PART_ROWS = 23, 5  # images, and rows of a part


def settings(place: Path, **changed: object) -> list[str]:
    given: dict[str, object] = {"ckpt": place / "run", "input": place / "in", "device": "cpu"}
    given |= {"num_workers": 0, "batch_size": 2, "part_rows": PART_ROWS} | changed
    return [f"{key}={value}" for key, value in given.items()]


def run(place: Path, output: Path, **changed: object) -> list[Prediction]:
    made: list[Prediction] = []
    cfg = predict_config(output.parent, *settings(place, output=output, **changed))
    predict(cfg, made.append)
    return made


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Interrupts predict when it reads an image after so many."""
    real, reads = Wanted.read, iter(range(count))

    def read(wanted: Wanted, item: Item) -> Any:
        if next(reads, None) is None:
            raise KeyboardInterrupt
        return real(wanted, item)

    monkeypatch.setattr(Wanted, "read", read)


def rows_of(*files: Path) -> list[dict[str, str]]:
    found = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as stream:
            found += list(csv.DictReader(stream))
    return found


def written(folder: Path) -> list[dict[str, str]]:
    return rows_of(*sorted(folder.glob("part-*.csv")))


def manifest(folder: Path, name: str = "manifest.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="ascii"))
    return found


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    visible = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in visible}
