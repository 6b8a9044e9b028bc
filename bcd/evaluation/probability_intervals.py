"""Confidence intervals of the figures that need probabilities, by the bootstrap of `intervals`.

Areas are computed anew in every draw from how often each image was drawn. With 3,000 images,
four classes and 2,000 draws that takes some 0.3 seconds, and grows with images times draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.bootstrap import (
    DRAWS,
    Clusters,
    Floats,
    Groups,
    bootstrap,
    freedoms,
    group_numbers,
)
from bcd.evaluation.calibration import SMALLEST
from bcd.evaluation.intervals import Interval, limits
from bcd.evaluation.metrics import brier_scores, losses

Areas = Callable[[Floats], tuple[Floats, Floats]]


def probability_intervals(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    groups: Groups | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Intervals of AUROC, average precision, loss and Brier score.

    How often they hold the truth in simulated data sets is tabled in docs/promises.md. The expected
    calibration error has none: noise alone lifts it, in every draw again, so an interval around it
    would never hold the error of a calibrated model. See `chance_level`.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,), indices into `classes`.
        classes: Class names.
        groups: (n,), what each image belongs to; None where images are independent.
        level: Of confidence, between 0 and 1.
        draws: Of the bootstrap.
        seed: Of the draws.

    Returns:
        By the names of `compute_metrics`: (low, high), or a dict of them by class; None where the
        figure is None.

    Raises:
        ValueError: There is no image, or not a group for each.
    """
    places = group_numbers(groups, len(labels))
    g, k = int(places.max()) + 1, len(classes)
    by_class = np.bincount(places * k + labels, minlength=g * k).reshape(g, k).astype(np.float64)
    clusters, every = Clusters(np.ones(g), by_class), by_class.sum(axis=1)
    # Images of a class and the others: an area wants both.
    sides = np.stack([by_class, every[:, None] - by_class], axis=-1)
    ranked = np.flatnonzero(sides.any(axis=0).all(axis=-1)).tolist()
    sums = _sums(probabilities, labels, places, g)
    areas = [areas_of(probabilities[:, c], labels == c, places) for c in ranked]

    def figures(weights: Floats) -> dict[str, Floats]:
        return _averages(weights, sums, every) | _areas(weights, areas)

    sizes = dict.fromkeys(("loss", "brier"), every)
    for name in ("auroc", "average_precision") if areas else ():
        sizes |= {name: sides[:, ranked].reshape(g, -1), f"{name}_by_class": sides[:, ranked]}
    drawn = bootstrap(clusters, figures, sizes, draws, seed, width=len(labels))
    freedom = freedoms(clusters, figures, width=len(labels))
    highest = {"loss": -float(np.log(SMALLEST)), "brier": 2.0}
    pairs: dict[str, list[Interval]] = {}
    for name, values in figures(clusters.times[None]).items():
        span = (0.0, highest.get(name, 1.0))
        given = (values[0], drawn[name], sizes[name], freedom[name])
        low, high = limits(clusters, *given, level, span)
        pairs[name] = list(zip(low.ravel().tolist(), high.ravel().tolist(), strict=True))
    return _named(pairs, classes, [classes[c] for c in ranked])


def areas_of(
    scores: NDArray[np.floating[Any]], truth: NDArray[np.bool_], places: NDArray[np.int64]
) -> Areas:
    """Prepares the areas under the ROC curve and under precision over recall for many draws.

    Args:
        scores: (n,).
        truth: (n,), some true and some not.
        places: (n,), number of each image's group.

    Returns:
        Maps how often each group was drawn, (m, groups), to both areas (m,). Ties count half in the
        first and are one threshold in the second, as in scikit-learn. NaN where nothing that is
        true was drawn, or nothing that is not.
    """
    order = np.argsort(-scores, kind="stable")
    owners, keys, true = places[order], -scores[order], np.flatnonzero(truth[order])
    # Where the threshold of each true image begins and ends, among all and among the true ones.
    first, last = (np.searchsorted(keys, keys[true], side) for side in _SIDES)
    true_first, true_last = (np.searchsorted(keys[true], keys[true], side) for side in _SIDES)

    def areas(weights: Floats) -> tuple[Floats, Floats]:
        times = weights[:, owners]
        of_true = times[:, true]
        every, found = _summed(times), _summed(of_true)
        above, hits = every[:, last], found[:, true_last]
        wrong = (above - hits + every[:, first] - found[:, true_first]) / 2
        p = found[:, -1]
        n = every[:, -1] - p
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
            average = np.einsum("ij,ij->i", of_true, precision) / p
            area = 1 - np.einsum("ij,ij->i", of_true, wrong) / (p * n)
        return area, np.where(n > 0, average, np.nan)

    return areas


_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def _summed(values: Floats) -> Floats:
    """Sums (m, n + 1) of the first 0, 1, …, n of values (m, n)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _areas(weights: Floats, areas: Sequence[Areas]) -> dict[str, Floats]:
    """Both areas of each class (m, ranked classes) and their means (m,)."""
    if not areas:
        return {}
    pairs = [area(weights) for area in areas]
    roc, precision = (np.stack(figures, axis=1) for figures in zip(*pairs, strict=True))
    return {
        "auroc": roc.mean(axis=1),
        "auroc_by_class": roc,
        "average_precision": precision.mean(axis=1),
        "average_precision_by_class": precision,
    }


def _sums(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    places: NDArray[np.int64],
    g: int,
) -> Floats:
    """What each group adds to loss and Brier score, (g, 2)."""
    each = (losses(probabilities, labels), brier_scores(probabilities, labels))
    return np.column_stack([np.bincount(places, figure, minlength=g) for figure in each])


def _averages(weights: Floats, sums: Floats, every: Floats) -> dict[str, Floats]:
    """Loss and Brier score (m,) of draws."""
    drawn, n = weights @ sums, weights @ every
    return {"loss": drawn[:, 0] / n, "brier": drawn[:, 1] / n}


def _named(
    pairs: dict[str, list[Interval]], classes: Sequence[str], ranked: Sequence[str]
) -> dict[str, Any]:
    """Intervals by name and class; None for areas that are not there."""
    found: dict[str, Any] = {name: pairs[name][0] for name in ("loss", "brier")}
    for name in ("auroc", "average_precision"):
        by_class: dict[str, Interval | None] = dict.fromkeys(classes)
        by_class |= dict(zip(ranked, pairs.get(f"{name}_by_class", ()), strict=True))
        found |= {name: pairs[name][0] if ranked else None, f"{name}_by_class": by_class}
    return found
