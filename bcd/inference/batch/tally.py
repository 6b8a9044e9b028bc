"""Counts of predictions, and the summary that predict prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcd.console import printable, say, show_table
from bcd.evaluation.predictions import Prediction
from bcd.storage import written_path

_SHOWN = 5  # images that could not be read


@dataclass
class Tally:
    """Counts of predictions; its size does not depend on their number.

    Attributes:
        classes: Names of the classes.
        predicted: Number of images predicted as each class, by its index.
        referred: Number of predicted images that are referred.
        infinite: Number of images whose answer is not finite.
        failed: Number of images that could not be read.
        first_failed: Path of the first few of these, and why.
        without_objects: Number of images of which DICOM objects that were asked for are missing.
    """

    classes: Sequence[str]
    predicted: Counter[int] = field(default_factory=Counter)
    referred: int = 0
    infinite: int = 0
    failed: int = 0
    first_failed: list[tuple[str, str]] = field(default_factory=list)
    without_objects: int = 0

    @property
    def unanswered(self) -> int:
        """Number of images without an answer."""
        return self.failed + self.infinite

    def add(self, prediction: Prediction) -> None:
        """Counts a prediction."""
        if prediction.best is None and not prediction.error:
            self.infinite += 1
            return
        if prediction.best is None:
            self.failed += 1
            if len(self.first_failed) < _SHOWN:
                self.first_failed.append((prediction.path, prediction.error))
            return
        self.predicted[prediction.best] += 1
        self.referred += bool(prediction.refer)

    def show(self, where: Path) -> None:
        """Prints the counts and where the predictions are."""
        rows = [[name, str(self.predicted[number])] for number, name in enumerate(self.classes)]
        rows += [["referred", str(self.referred)], ["could not be read", str(self.failed)]]
        if self.infinite:
            rows.append(["no finite answer", str(self.infinite)])
        show_table("Predicted", ["class", "images"], rows)
        for path, error in self.first_failed:
            say(f"could not be read: {printable(path)}: {error}")
        say(f"predictions: {where}")
        if self.without_objects:
            say(f"warning: images of which DICOM objects are missing: {self.without_objects}")

    def to_plain(self) -> dict[str, Any]:
        """Plain data, as a manifest stores it."""
        return {
            "predicted": {name: self.predicted[i] for i, name in enumerate(self.classes)},
            "referred": self.referred,
            "no_finite_answer": self.infinite,
            "could_not_be_read": self.failed,
            "without_objects": self.without_objects,
            "first_failed": [[written_path(path), error] for path, error in self.first_failed],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Tally:
        """What `to_plain` gave.

        Raises:
            LookupError: A count is missing.
            TypeError: A value is of another type.
            ValueError: The same.
        """
        predicted = dict(plain["predicted"])
        names = ("referred", "no_finite_answer", "could_not_be_read", "without_objects")
        counts = [plain[name] for name in names]
        failed = [(path, error) for path, error in plain["first_failed"]]
        if any(type(one) is not int or one < 0 for one in (*counts, *predicted.values())):
            raise TypeError("not a count")
        if not all(isinstance(text, str) for pair in failed for text in pair):
            raise TypeError("not a text")
        numbers = Counter(dict(enumerate(predicted.values())))
        referred, infinite, unread, without = counts
        return cls(list(predicted), numbers, referred, infinite, unread, failed, without)
