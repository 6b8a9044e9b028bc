"""Leaks: test images whose field is also in train or val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.evaluation.predictions import Prediction


@dataclass(frozen=True)
class Leaks:
    """Test images that are in train or val too, are copies of images there, or overlap them.

    Attributes:
        tested: Number of test images.
        train: Indices of those that overlap an image in train.
        val: Indices of those that overlap an image in val; an image can be in both.
    """

    tested: int
    train: tuple[int, ...]
    val: tuple[int, ...]

    @property
    def all(self) -> list[int]:
        """Indices of those that overlap an image in train or val, ascending."""
        return sorted({*self.train, *self.val})

    @property
    def summary(self) -> str:
        """The counts as one sentence."""
        return (
            f"{len(self.all)} of {self.tested} test images overlap one in train or val "
            f"({len(self.train)} in train, {len(self.val)} in val)"
        )


def find_leaks(
    profile: DataProfile, trained: Sequence[int], validated: Sequence[int], tested: Sequence[int]
) -> Leaks:
    """Finds the test images that overlap an image in train or val by any share of their area.

    Args:
        profile: Of the catalog that the indices refer to.
        trained: Indices of the train set.
        validated: Indices of the val set.
        tested: Indices of the test set.
    """
    train, val = (
        tuple(int(i) for i in np.asarray(tested, np.int64)[profile.touching(indices)[list(tested)]])
        for indices in (trained, validated)
    )
    return Leaks(len(tested), train, val)


def leak_metrics(
    found: Leaks, tested: Sequence[int], predictions: Sequence[Prediction], catalog: Catalog
) -> dict[str, Any]:
    """Metrics on leaks for `metrics.json`.

    Args:
        found: From `find_leaks`.
        tested: Indices of the test set.
        predictions: Of the same images, in that order.
        catalog: Holds the classes.

    Returns:
        `leaked`, the number of test images that overlap one in train or val; `leaked_train` and
        `leaked_val`, the numbers for train and val alone; and `accuracy_without_leaked`, None if no
        image is kept.
    """
    kept = set(tested) - set(found.all)
    correct = [
        prediction.best is not None and catalog.classes[prediction.best] == prediction.label
        for index, prediction in zip(tested, predictions, strict=True)
        if index in kept
    ]
    return {
        "leaked": len(found.all),
        "leaked_train": len(found.train),
        "leaked_val": len(found.val),
        "accuracy_without_leaked": float(np.mean(correct)) if correct else None,
    }
