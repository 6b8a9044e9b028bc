"""Images whose label is probably wrong, by confident learning.

Northcutt, Jiang and Chuang (J Artif Intell Res 2021;70:1373) compare each image's probabilities,
from a model that was not fitted on it, with a threshold for each class: the mean probability of the
class over the images that carry its label. An image confidently shows the most probable of the
classes whose thresholds it reaches. If that is another class than its own (off the diagonal of the
confident joint) and more probable than its own, its label is worth checking.

The method finds labels that contradict those of similar images. It cannot find a systematic error:
if all images of a kind carry the same wrong label, they agree with each other. It also lists images
that the model misreads confidently, so that each image needs to be looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is probably wrong.

    Attributes:
        row: Of the image in the probabilities.
        label: Its class.
        suggested: The class that it probably shows.
        self_confidence: Probability of its own class.
        suggested_probability: Probability of the suggested class.
    """

    row: int
    label: int
    suggested: int
    self_confidence: float
    suggested_probability: float

    @property
    def margin(self) -> float:
        """Normalized margin: own minus suggested probability; the lower, the more suspicious."""
        return self.self_confidence - self.suggested_probability


def class_thresholds(probabilities: Floats, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean probability of each class over the images labelled with it; infinite without one.

    Args:
        probabilities: Out of sample, (n, classes).
        labels: (n,).

    Returns:
        (classes,).
    """
    found = np.full(probabilities.shape[1], np.inf)
    for k in np.unique(labels):
        found[k] = probabilities[labels == k, k].mean()
    return found


def find_label_issues(probabilities: Floats, labels: NDArray[np.int64]) -> list[LabelIssue]:
    """Finds labels that are probably wrong, the most suspicious first, by normalized margin.

    Args:
        probabilities: Of a model that was not fitted on these images, (n, classes).
        labels: (n,).
    """
    shown = _shown(probabilities, labels)
    every = np.arange(len(labels))
    more = probabilities[every, shown] > probabilities[every, labels]
    rows = np.flatnonzero((shown >= 0) & more)
    found = [
        LabelIssue(
            int(row),
            int(labels[row]),
            int(shown[row]),
            float(probabilities[row, labels[row]]),
            float(probabilities[row, shown[row]]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda issue: (issue.margin, issue.row))


def _shown(probabilities: Floats, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most probable of the classes that reach their thresholds, -1 if none does, (n,)."""
    reached = probabilities >= class_thresholds(probabilities, labels)
    shown = np.where(reached, probabilities, -1).argmax(axis=1)
    return np.where(reached.any(axis=1), shown, -1)
