"""Whether one model is better than another on the same pictures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.intervals import Groups, cluster, group_numbers
from bcd.evaluation.metrics import matrix_figures


class Difference(NamedTuple):
    """A figure of one model minus that of another, with its interval."""

    value: float
    low: float
    high: float


def paired_interval(
    labels: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    k: int,
    groups: Groups | None = None,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Intervals of the differences between two models, a minus b.

    Each group (else each picture) is left out for both models at once, so what is hard for both
    cancels out; otherwise as in `intervals`, on the plain scale. In 500 simulated ties a row, 0 lay
    within the 95 % interval of accuracy / macro F1 in per cent of them: 95.4 / 95.4 with 700
    independent pictures and accuracy 0.9, 97.2 / 97.0 with 0.99, 95.4 / 95.0 with 15 very unequal
    groups and 0.9, 97.8 / 97.8 with such groups and 0.97. Where fewer than some ten pictures are
    right for one model alone, `mcnemar` is the better judge.

    Args:
        labels: (n,), the truth.
        a: (n,), predictions of one model.
        b: (n,), of the other, for the same pictures.
        k: Number of classes.
        groups: (n,), what each picture belongs to; None where pictures are independent.
        level: Of confidence, between 0 and 1.

    Returns:
        By the names of `compute_metrics`, for figures of all classes together. Exactly 0, 0, 0
        where the models agree. With a single group nothing is known: the limits are then those of
        any difference.

    Raises:
        ValueError: There is no picture, or not a group for each.
    """
    from scipy.stats import t

    places = group_numbers(groups, len(labels))
    clusters = cluster(labels * k + a, k * k, places)
    of_a = clusters.codes.reshape(-1, k, k)
    of_b = cluster(labels * k + b, k * k, places).codes.reshape(-1, k, k)
    value, without = (
        {name: of_first - second[name] for name, of_first in first.items() if not _by_class(name)}
        for first, second in (
            (matrix_figures(of_a.sum(axis=0)), matrix_figures(of_b.sum(axis=0))),
            (matrix_figures(of_a.sum(axis=0) - of_a), matrix_figures(of_b.sum(axis=0) - of_b)),
        )
    )
    quantile = t.ppf((1 + level) / 2, max(clusters.effective(of_a.sum(axis=(1, 2))) - 1, 1))
    found: dict[str, Difference] = {}
    for name, difference in value.items():
        most = 2.0 if name == "mcc" else 1.0
        half = float(quantile * clusters.deviation(without[name], difference))
        if clusters.count == 1 and not np.array_equal(of_a, of_b):
            half = 2 * most
        low, high = np.clip((difference - half, difference + half), -most, most)
        found[name] = Difference(float(difference), float(low), float(high))
    return found


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value that two models are right equally often; exact, for any number.

    Args:
        only_a: Pictures that the first model alone got right.
        only_b: Those that the second alone got right.
    """
    from scipy.stats import binomtest

    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _by_class(name: str) -> bool:
    return name.endswith("_by_class")
