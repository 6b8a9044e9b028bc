"""`predictions.csv` and its JSON twin: one row a picture, the same from train, eval and predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcd.storage import write_csv, write_text, written_path


@dataclass(frozen=True)
class Prediction:
    """What is said of one picture.

    Attributes:
        path: Of the picture.
        label: Its true class; empty where unknown.
        probabilities: One per class; empty where the picture could not be read.
        error: Why it could not be read, else empty.
        refer: Why a person should look at it, else empty.
    """

    path: str
    label: str
    probabilities: tuple[float, ...]
    error: str = ""
    refer: str = ""

    @property
    def best(self) -> int | None:
        """Index of the most probable class, the first of equals; None where unreadable."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__, default=None)


def columns(classes: Sequence[str]) -> list[str]:
    """Columns of `predictions.csv`, in their order."""
    names = ["path", "label", "prediction", "probability", *(f"p_{n}" for n in classes)]
    return [*names, "malignant", "refer", "reason", "error"]


def prediction_cells(p: Prediction, classes: Sequence[str], benign: int | None) -> list[str]:
    """Turns a prediction into a row of `predictions.csv`."""
    return [_cell(value) for value in prediction_record(p, classes, benign).values()]


def prediction_records(
    predictions: Sequence[Prediction], classes: Sequence[str], benign: int | None
) -> list[dict[str, Any]]:
    """Turns predictions into records with the columns of `predictions.csv`.

    They are path, label, prediction, probability, p_<class> …, malignant, refer, reason, error.
    A picture that cannot be read has no prediction and is referred to a person, as is one whose
    answer is not to be relied on.
    """
    return [prediction_record(p, classes, benign) for p in predictions]


def prediction_record(p: Prediction, classes: Sequence[str], benign: int | None) -> dict[str, Any]:
    """The record of one prediction."""
    best = p.best
    known = best is not None
    return {
        "path": written_path(p.path),
        "label": p.label,
        "prediction": classes[best] if best is not None else "",
        "probability": p.probabilities[best] if best is not None else None,
        **{f"p_{n}": p.probabilities[i] if known else None for i, n in enumerate(classes)},
        "malignant": best != benign if known and benign is not None else None,
        "refer": bool(p.refer) or not known,
        "reason": p.refer if known else "unreadable",
        "error": p.error,
    }


def write_predictions(
    file: Path,
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    benign: int | None,
) -> None:
    """Writes records as CSV, or as a JSON list where the file's name ends in .json."""
    records = prediction_records(predictions, classes, benign)
    if file.suffix.lower() == ".json":
        write_text(file, json.dumps(records, indent=1) + "\n")
        return
    header = ["path", "label", "prediction", "probability", *(f"p_{n}" for n in classes)]
    header += ["malignant", "refer", "reason", "error"]
    write_csv(file, header, ([_cell(r[name]) for name in header] for r in records))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}" if isinstance(value, float) else str(value)
