"""The comparison of two models on the same images; its statistics are in `paired_tests`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.evaluation.paired_tests import Difference, paired_interval, paired_p_value, verdict
from bcd.evaluation.results import Result
from bcd.evaluation.unsafe import unsafe_differences

COMPARED = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Disagreement:
    """An image for which two models predict different classes.

    Attributes:
        index: Of the image, among those compared.
        label: Its true class.
        predictions: Predicted class of each model.
        probabilities: Probability that each model gives to its predicted class.
    """

    index: int
    label: str
    predictions: tuple[str, str]
    probabilities: tuple[float, float]

    @property
    def correct(self) -> str:
        """Which model is correct: `a`, `b` or `neither`."""
        if self.label not in self.predictions:
            return "neither"
        return "ab"[self.predictions.index(self.label)]


@dataclass(frozen=True)
class Comparison:
    """Result of comparing model a with model b.

    Attributes:
        metrics: Metrics of each model, as in `metrics.json`.
        differences: b minus a: first the shares of unsafe answers, if there is a benign class,
            then the metrics in `COMPARED`.
        correct: Numbers of images that `both`, `only a`, `only b` and `neither` got right.
        p_value: Of the hypothesis that both are equally accurate, by `paired_p_value`.
        n_groups: Number of groups that intervals and p-value are over; None if they are over
            images.
        disagreements: In the order of `find_disagreements`.
        verdict: One sentence.
    """

    metrics: dict[str, dict[str, Any]]
    differences: dict[str, Difference]
    correct: dict[str, int]
    p_value: float
    n_groups: int | None
    disagreements: list[Disagreement]
    verdict: str


def compare_results(
    catalog: Catalog,
    indices: Sequence[int],
    results: tuple[Result, Result],
    order: Sequence[int],
    groups: list[int] | None,
) -> Comparison:
    """Compares the results of two models on the same images.

    Args:
        catalog: Holds the images and the classes of model a.
        indices: Of the images, in the catalog.
        results: Of model a and model b.
        order: Position of each class of model a among the classes of model b.
        groups: Group of each image; None if images are independent.
    """
    labels = np.array(catalog.labels)[list(indices)]
    a, b = _probabilities(results[0]), _probabilities(results[1])[:, order]
    predicted = a.argmax(axis=1), b.argmax(axis=1)
    intervals = paired_interval(labels, predicted[1], predicted[0], len(catalog.classes), groups)
    a_correct, b_correct = predicted[0] == labels, predicted[1] == labels
    p_value = paired_p_value(a_correct, b_correct, groups)
    return Comparison(
        metrics={"a": results[0].metrics, "b": results[1].metrics},
        differences=_unsafe(results, labels != catalog.benign, groups)
        | {name: intervals[name] for name in COMPARED},
        correct={
            "both": int((a_correct & b_correct).sum()),
            "only a": int((a_correct & ~b_correct).sum()),
            "only b": int((b_correct & ~a_correct).sum()),
            "neither": int((~a_correct & ~b_correct).sum()),
        },
        p_value=p_value,
        n_groups=None if groups is None else len(set(groups)),
        disagreements=find_disagreements(a, b, labels, catalog.classes),
        verdict=verdict(intervals["accuracy"], p_value),
    )


def _unsafe(
    results: tuple[Result, Result], malignant: NDArray[np.bool_], groups: list[int] | None
) -> dict[str, Difference]:
    """Differences of the shares of unsafe answers; none without a benign class."""
    a, b = results[0].unsafe, results[1].unsafe
    return {} if a is None or b is None else unsafe_differences(malignant, a, b, groups)


def find_disagreements(
    a: NDArray[np.floating[Any]],
    b: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
) -> list[Disagreement]:
    """Finds disagreements, sorted by the confidence of the less confident model, highest first.

    Args:
        a: Probabilities (n, classes) of one model.
        b: Those of the other model, with classes in the same order.
        labels: (n,).
        classes: Class names.
    """
    found = []
    for index in np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1)):
        best = [int(p[index].argmax()) for p in (a, b)]
        predictions = (classes[best[0]], classes[best[1]])
        probabilities = (float(a[index, best[0]]), float(b[index, best[1]]))
        found.append(Disagreement(int(index), classes[labels[index]], predictions, probabilities))
    return sorted(found, key=lambda d: (-min(d.probabilities), d.index))


def _probabilities(result: Result) -> NDArray[np.float64]:
    return np.array([prediction.probabilities for prediction in result.predictions])
