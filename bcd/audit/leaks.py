"""Leaks: test images whose field was trained or chosen on."""

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
    """Test images that are, are copies of or overlap images of other parts.

    Attributes:
        tested: Number of test images.
        train: Indices of those that overlap an image in train.
        val: Indices of those that overlap one in val; some may be in both.
    """

    tested: int
    train: tuple[int, ...]
    val: tuple[int, ...]

    @property
    def all(self) -> list[int]:
        """Indices of those that overlap an image in train or val, ascending."""
        return sorted({*self.train, *self.val})

    @property
    def told(self) -> str:
        """The numbers in a few words."""
        return (
            f"{len(self.all)} of {self.tested} test images overlap one in train or val "
            f"({len(self.train)} in train, {len(self.val)} in val)"
        )


def find_leaks(
    profile: DataProfile, trained: Sequence[int], chosen: Sequence[int], tested: Sequence[int]
) -> Leaks:
    """Finds the test images whose field is in train or val too, by any share of their area.

    Args:
        profile: Of the catalog that the indices count in.
        trained: Indices of the train part.
        chosen: Indices of the val part.
        tested: Indices of the test part.
    """
    train, val = (
        tuple(int(i) for i in np.asarray(tested, np.int64)[profile.touching(part)[list(tested)]])
        for part in (trained, chosen)
    )
    return Leaks(len(tested), train, val)


def leak_figures(
    found: Leaks, tested: Sequence[int], predictions: Sequence[Prediction], catalog: Catalog
) -> dict[str, Any]:
    """What `metrics.json` says of leaks.

    Args:
        found: From `find_leaks`.
        tested: Indices of the test part.
        predictions: Of the same images, in that order.
        catalog: Names the classes.

    Returns:
        `leaked`, a number of images, of which `leaked_train` overlap one in train and `leaked_val`
        one in val; and `accuracy_without_leaked`, None if none is left.
    """
    left = set(tested) - set(found.all)
    right = [
        prediction.best is not None and catalog.classes[prediction.best] == prediction.label
        for index, prediction in zip(tested, predictions, strict=True)
        if index in left
    ]
    return {
        "leaked": len(found.all),
        "leaked_train": len(found.train),
        "leaked_val": len(found.val),
        "accuracy_without_leaked": float(np.mean(right)) if right else None,
    }
