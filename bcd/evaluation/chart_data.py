"""The numbers behind charts: ROC and precision-recall curves, and errors by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class GroupErrors(NamedTuple):
    """A group of images, their number, and how many of them are answered wrongly."""

    name: str
    n: int
    wrong: int

    @property
    def share(self) -> float:
        """Share of wrong answers."""
        return self.wrong / self.n


def errors_by_group(groups: Sequence[str], wrong: NDArray[np.bool_]) -> list[GroupErrors]:
    """Errors in each group, the largest share first.

    Args:
        groups: Of each image, (n,); images without one (empty) are left out.
        wrong: Which images are answered wrongly, (n,).
    """
    names = sorted({name for name in groups if name})
    places = {name: place for place, name in enumerate(names)}
    known = np.array([bool(name) for name in groups], bool)
    numbers = np.array([places[name] for name in groups if name], np.int64)
    sizes = np.bincount(numbers, minlength=len(names)).tolist()
    errors = np.bincount(numbers[np.asarray(wrong)[known]], minlength=len(names)).tolist()
    found = [GroupErrors(*row) for row in zip(names, sizes, errors, strict=True)]
    return sorted(found, key=lambda group: (-group.share, -group.n, group.name))


def roc_points(truth: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates, from the highest threshold to the lowest.

    Args:
        truth: Which images are positive, (n,); some are and some are not.
        scores: (n,).
    """
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(truth, scores)
    return false, true


def precision_recall_points(truth: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Precision and recall, from the lowest threshold to the highest.

    Args:
        truth: Which images are positive, (n,); at least one is.
        scores: (n,).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    return precision, recall
