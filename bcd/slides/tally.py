"""Counts and shares of the tiles of a slide."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bcd.evaluation.predictions import Prediction

_TOP = 0.05  # share of the tiles whose mean is given as the top of the slide


class Tally:
    """Counts tiles as they are answered.

    Args:
        classes: Names of the classes.
        benign: Index of the class that is not cancer; None if there is none.

    Attributes:
        predicted: Number of tiles predicted as each class, by its name.
        reasons: Number of tiles referred for each reason.
        left_out: Number of tiles left out because they show too little tissue.
        referred: Number of answered tiles that are referred.
        malignant: Number of answered tiles called malignant.
        failed: Number of tiles that could not be read.
        infinite: Number of tiles whose answer is not finite.
        first_failed: Name and reason of the first few that could not be read.
    """

    def __init__(self, classes: Sequence[str], benign: int | None) -> None:
        self.classes, self._benign = classes, benign
        self.predicted: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.left_out = self.referred = self.malignant = self.failed = self.infinite = 0
        self.first_failed: list[tuple[str, str]] = []
        self._values = array("f")  # 4 bytes a tile
        self._trusted = array("f")

    def add(self, name: str, prediction: Prediction) -> None:
        """Counts a tile."""
        self.reasons.update(prediction.refer)
        if prediction.best is None:
            self.failed += bool(prediction.error)
            self.infinite += not prediction.error
            if prediction.error and len(self.first_failed) < 5:
                self.first_failed.append((name, prediction.error))
            return
        self.predicted[self.classes[prediction.best]] += 1
        self.referred += bool(prediction.refer)
        self.malignant += bool(prediction.malignant)
        value = self.shown(prediction)
        self._values.append(value)
        if not prediction.refer:
            self._trusted.append(value)

    def shown(self, prediction: Prediction) -> float:
        """What the heat map shows of an answer: how probable malignancy is, or the best class."""
        if self._benign is None:
            return max(prediction.probabilities)
        return 1 - prediction.probabilities[self._benign]

    @property
    def answered(self) -> int:
        """Number of tiles with an answer."""
        return len(self._values)

    @property
    def unanswered(self) -> int:
        """Number of tiles without one, though they show tissue."""
        return self.failed + self.infinite

    def to_plain(self) -> dict[str, Any]:
        """Plain data, for `slide.json`."""
        return {
            "left_out": self.left_out,
            "answered": self.answered,
            "not_referred": self.answered - self.referred,
            "referred": self.referred,
            "could_not_be_read": self.failed,
            "no_finite_answer": self.infinite,
            "malignant": self.malignant,
            "predicted": {name: self.predicted[name] for name in self.classes},
            "reasons": dict(sorted(self.reasons.items())),
            "all_answered": _summary(self._values),
            "those_not_referred": _summary(self._trusted),
        }


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    """Mean of what the heat map shows, and mean of the top tiles; None without tiles."""
    if not len(values):
        return None
    ordered = np.sort(np.asarray(values, np.float64))
    top = ordered[-max(1, round(_TOP * len(ordered))) :]
    return {
        "mean": round(float(ordered.mean()), 6),
        f"mean_of_top_{_TOP:.0%}": round(float(top.mean()), 6),
    }
