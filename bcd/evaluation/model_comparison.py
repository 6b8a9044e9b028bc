"""Compares the answers of two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.evaluation.comparison import Difference, paired_interval, paired_p, verdict
from bcd.evaluation.disagreements import Disagreement, find_disagreements
from bcd.evaluation.results import Result

COMPARED = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        metrics: Figures of either model, as in `metrics.json`.
        differences: Of the figures in `COMPARED`, b minus a.
        right: Images that `both`, `only a`, `only b` and `neither` got right.
        p: That they are right equally often, by `paired_p`.
        groups: How many intervals and p are over; None where they are over images.
        disagreements: The most certain first.
        verdict: In plain words.
    """

    metrics: dict[str, dict[str, Any]]
    differences: dict[str, Difference]
    right: dict[str, int]
    p: float
    groups: int | None
    disagreements: list[Disagreement]
    verdict: str


def _probabilities(result: Result) -> NDArray[np.float64]:
    return np.array([prediction.probabilities for prediction in result.predictions])


def compare_results(
    catalog: Catalog,
    indices: Sequence[int],
    results: tuple[Result, Result],
    order: Sequence[int],
    groups: list[int] | None,
) -> Comparison:
    """Compares results; `order` finds the first one's classes among those of the second."""
    labels = np.array(catalog.labels)[list(indices)]
    of_a, of_b = _probabilities(results[0]), _probabilities(results[1])[:, order]
    said = of_a.argmax(axis=1), of_b.argmax(axis=1)
    intervals = paired_interval(labels, said[1], said[0], len(catalog.classes), groups)
    a, b = said[0] == labels, said[1] == labels
    p = paired_p(a, b, groups)
    return Comparison(
        metrics={"a": results[0].metrics, "b": results[1].metrics},
        differences={name: intervals[name] for name in COMPARED},
        right={
            "both": int((a & b).sum()),
            "only a": int((a & ~b).sum()),
            "only b": int((b & ~a).sum()),
            "neither": int((~a & ~b).sum()),
        },
        p=p,
        groups=None if groups is None else len(set(groups)),
        disagreements=find_disagreements(of_a, of_b, labels, catalog.classes),
        verdict=verdict(intervals["accuracy"], p),
    )
