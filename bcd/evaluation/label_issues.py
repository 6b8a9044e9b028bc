"""Images whose label is probably wrong, by confident learning.

Northcutt, Jiang and Chuang (J Artif Intell Res 2021;70:1373) compare each image's probabilities,
from a model that was not fitted on it, with a threshold for each class: the mean probability of the
class over the images that carry its label. Images that reach the threshold of another class than
their own are counted by both classes (the confident joint). From the share of such images among
those counted follows how many labels of a class are probably wrong, and as many images with the
lowest margin between the probabilities of both classes are worth checking (pruning by noise rate).

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


def confident_joint(probabilities: Floats, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of images by their label (row) and the class that they confidently show (column).

    An image confidently shows the most probable of the classes whose thresholds it reaches; one
    that reaches none is not counted.

    Args:
        probabilities: Out of sample, (n, classes).
        labels: (n,).

    Returns:
        (classes, classes).
    """
    reached = probabilities >= class_thresholds(probabilities, labels)
    shown = np.where(reached, probabilities, -1).argmax(axis=1)
    counted = reached.any(axis=1)
    counts = np.zeros((probabilities.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels[counted], shown[counted]), 1)
    return counts


def find_label_issues(probabilities: Floats, labels: NDArray[np.int64]) -> list[LabelIssue]:
    """Finds labels that are probably wrong, the most suspicious first, by normalized margin.

    Args:
        probabilities: Of a model that was not fitted on these images, (n, classes).
        labels: (n,).
    """
    joint = confident_joint(probabilities, labels)
    totals = np.bincount(labels, minlength=len(joint))
    best = probabilities.argmax(axis=1)
    every = np.arange(len(labels))
    margin = probabilities[every, labels] - probabilities[every, best]
    rows: list[int] = []
    for i, j in np.argwhere(joint * (1 - np.eye(len(joint), dtype=np.int64))):
        expected = round(float(joint[i, j] / joint[i].sum() * totals[i]))
        own = np.flatnonzero((labels == i) & (best == j))
        rows += own[np.argsort(margin[own], kind="stable")][:expected].tolist()
    found = [
        LabelIssue(
            row,
            int(labels[row]),
            int(best[row]),
            float(probabilities[row, labels[row]]),
            float(probabilities[row, best[row]]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda issue: (issue.margin, issue.row))
