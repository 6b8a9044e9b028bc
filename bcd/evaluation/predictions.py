"""Rows of `predictions.csv` or `.json`, the same from train, eval and predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcd.storage import write_csv, write_text, written_path

# Reasons for a missing prediction, or for one without a decision.
UNREADABLE, NOT_FINITE, UNCALIBRATED = "unreadable", "not finite", "uncalibrated"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: Of the image.
        label: Its true class; empty if unknown.
        probabilities: One per class; empty if there is no prediction.
        error: Why the image could not be read; empty if it could.
        refer: All reasons for referring the image to a person; empty if there is none.
        malignant: Whether it is called malignant; None if that was not decided.
        explanation: Path of the picture of where the evidence is, from the folder of the rows;
            empty without an answer, None if no pictures were asked for.
        prediction_set: Indices of the classes of the prediction set; not in rows.
        ood_score: Above 1 is out of distribution; None if unknown. Not in rows.
        kept: Attributes of a DICOM file that were asked for: keywords and texts, empty ones for
            what the file does not have.
    """

    path: str
    label: str
    probabilities: tuple[float, ...]
    error: str = ""
    refer: tuple[str, ...] = ()
    malignant: bool | None = None
    explanation: str | None = None
    prediction_set: tuple[int, ...] = field(default=(), compare=False)
    ood_score: float | None = field(default=None, compare=False)
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def best(self) -> int | None:
        """Index of the most probable class, the first of ties; None without a prediction."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__, default=None)


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    Attributes:
        index: Of its prediction.
        path: Of the image.
        label: Its true class.
        prediction: The predicted class.
        probability: Of the predicted class.
    """

    index: int
    path: str
    label: str
    prediction: str
    probability: float


def find_mistakes(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[Mistake]:
    """Finds predictions that differ from the label, most confident first."""
    found = []
    for index, p in enumerate(predictions):
        if (best := p.best) is not None and classes[best] != p.label:
            found.append(Mistake(index, p.path, p.label, classes[best], p.probabilities[best]))
    return sorted(found, key=lambda mistake: -mistake.probability)


def columns(classes: Sequence[str], explained: bool = False, kept: Sequence[str] = ()) -> list[str]:
    """Columns of `predictions.csv`, in order.

    `malignant` compares the probability of malignancy with the decision policy's threshold; the
    most probable class may differ. `refer` is whether the image is referred to a person, and
    `reason` lists all reasons, separated by semicolons. `explanation` is there only if pictures
    were asked for, and `dicom_<keyword>` for each attribute that was.
    """
    probabilities = [f"p_{name}" for name in classes]
    leading = ["path", "label", "prediction", "probability", *probabilities]
    trailing = ["malignant", "refer", "reason", "error", *["explanation"] * explained]
    return [*leading, *trailing, *(f"dicom_{keyword}" for keyword in kept)]


def prediction_record(p: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    """Converts a prediction to a record with `columns`; None where a value is unknown.

    An image without a prediction is referred.
    """
    best = p.best
    each = p.probabilities or (None,) * len(classes)
    explained = p.explanation is not None
    values = (
        written_path(p.path),
        p.label,
        "" if best is None else classes[best],
        None if best is None else p.probabilities[best],
        *each,
        p.malignant,
        bool(p.refer) or best is None,
        "; ".join(p.refer or (UNREADABLE,) * (best is None)),
        p.error,
        *[written_path(p.explanation or "")] * explained,
        *(text for _, text in p.kept),
    )
    names = columns(classes, explained, [keyword for keyword, _ in p.kept])
    return dict(zip(names, values, strict=True))


def prediction_cells(p: Prediction, classes: Sequence[str]) -> list[str]:
    """Converts a prediction to a row of `predictions.csv`."""
    return [_cell(value) for value in prediction_record(p, classes).values()]


def write_predictions(
    file: Path, predictions: Sequence[Prediction], classes: Sequence[str]
) -> None:
    """Writes records as CSV, or as a JSON list if the file's name ends in .json."""
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
