"""`predictions.csv` and its JSON twin: one row an image, the same from train, eval and predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcd.storage import write_csv, write_text, written_path

# Why an image has no answer, or none that was decided on.
UNREADABLE, NOT_FINITE, UNCALIBRATED = "unreadable", "not finite", "uncalibrated"


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
        path: Of the image.
        label: Its true class; empty where unknown.
        probabilities: One per class; empty where there is no answer.
        error: Why it could not be read, else empty.
        refer: All reasons why a person should look at it; empty where there is none.
        malignant: Whether it is called malignant; None where that is not decided.
    """

    path: str
    label: str
    probabilities: tuple[float, ...]
    error: str = ""
    refer: tuple[str, ...] = ()
    malignant: bool | None = None

    @property
    def best(self) -> int | None:
        """Index of the most probable class, the first of equals; None without an answer."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__, default=None)


def columns(classes: Sequence[str]) -> list[str]:
    """Columns of `predictions.csv`, in their order.

    `malignant` is what the decision policy's threshold says of the probability of malignancy, not
    whether the most probable class is malignant. `refer` says whether a person should look at the
    image, `reason` names all reasons why, joined by semicolons.
    """
    probabilities = [f"p_{name}" for name in classes]
    said = ["path", "label", "prediction", "probability", *probabilities]
    return [*said, "malignant", "refer", "reason", "error"]


def prediction_record(p: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    """Turns a prediction into a record with `columns`; None where something is not known.

    An image without an answer has no prediction, and is referred.
    """
    best = p.best
    given = p.probabilities or (None,) * len(classes)
    values = (
        written_path(p.path),
        p.label,
        "" if best is None else classes[best],
        None if best is None else p.probabilities[best],
        *given,
        p.malignant,
        bool(p.refer) or best is None,
        "; ".join(p.refer or (UNREADABLE,) * (best is None)),
        p.error,
    )
    return dict(zip(columns(classes), values, strict=True))


def prediction_cells(p: Prediction, classes: Sequence[str]) -> list[str]:
    """Turns a prediction into a row of `predictions.csv`."""
    return [_cell(value) for value in prediction_record(p, classes).values()]


def write_predictions(
    file: Path, predictions: Sequence[Prediction], classes: Sequence[str]
) -> None:
    """Writes records as CSV, or as a JSON list where the file's name ends in .json."""
    if file.suffix.lower() == ".json":
        records = [prediction_record(p, classes) for p in predictions]
        write_text(file, json.dumps(records, indent=1) + "\n")
        return
    write_csv(file, columns(classes), (prediction_cells(p, classes) for p in predictions))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6f}" if isinstance(value, float) else str(value)
