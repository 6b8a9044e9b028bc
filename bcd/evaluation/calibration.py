"""Whether probabilities mean what they say: temperature, reliability, calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]

BINS = 15
TEMPERATURES = (0.05, 20.0)  # the lowest and the highest that can be fitted
SMALLEST = 1e-12  # probabilities below it count as this much, so that no loss is infinite


@dataclass(frozen=True)
class Reliability:
    """How often the predicted class was right, by the probability it was given.

    Attributes:
        edges: (bins + 1,), from 0 to 1; a bin holds its upper edge, not its lower one.
        counts: (bins,), pictures.
        confidence: (bins,), mean probability of the predicted class; 0 in an empty bin.
        accuracy: (bins,), share of right predictions; 0 in an empty bin.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error, between 0 and 1."""
        gaps = self.counts * (self.accuracy - self.confidence)
        return float(calibration_error(gaps, int(self.counts.sum())))


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Finds the temperature that minimises the mean negative log-likelihood of val.

    The search runs over log T within `TEMPERATURES`. Where every picture is right the likelihood
    only grows as T falls, so it cannot say how far to sharpen: T is then at least 1. The loss is
    never higher than at T = 1.

    Args:
        logits: (n, classes).
        labels: (n,).

    Returns:
        What to divide the logits by; 1 without pictures.
    """
    if len(labels) == 0:
        return 1.0
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)

    def loss(log_t: float) -> float:
        scaled = shifted / np.exp(log_t)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]).mean())

    faultless = bool((shifted[rows, labels] == 0).all())
    lowest, highest = np.log(TEMPERATURES)
    bounds = (0.0 if faultless else float(lowest), float(highest))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    # The bounded search never tries the ends, and 1 must win where it is as good.
    return float(np.exp(min((0.0, *bounds, float(found.x)), key=loss)))


def binned_gaps(
    probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bin (n,) of each picture, and by how much being right (1 or 0) exceeds its probability.

    Bins are of equal width, by the probability of the predicted class.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,).
        bins: How many between 0 and 1.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return places, right - confidence


def calibration_error(gaps: NDArray[np.float64], n: int | NDArray[Any]) -> NDArray[np.float64]:
    """Expected calibration error (...) of the sums of gaps (..., bins) over n (...) pictures."""
    error: NDArray[np.float64] = np.abs(gaps).sum(axis=-1) / np.maximum(n, 1)
    return error


def reliability(probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS) -> Reliability:
    """Sorts predictions into bins of equal width by the probability of the predicted class.

    Args:
        probabilities: (n, classes), rows sum to 1.
        labels: (n,).
        bins: How many between 0 and 1.
    """
    places, gaps = binned_gaps(probabilities, labels, bins)
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, probabilities.max(axis=1), minlength=bins)
    confidence = sums / np.maximum(counts, 1)
    accuracy = (sums + np.bincount(places, gaps, minlength=bins)) / np.maximum(counts, 1)
    return Reliability(np.linspace(0, 1, bins + 1), counts, confidence, accuracy)


def draw_reliability(before: Reliability, after: Reliability) -> Figure:
    """Draws accuracy over confidence, before and after calibration; the diagonal is ideal."""
    from bcd.evaluation.figures import new_figure

    figure = new_figure(8, 4, (0.6, 0.5, 0.2, 0.4))
    for number, (name, given) in enumerate((("before", before), ("after", after)), start=1):
        axes = figure.add_subplot(1, 2, number)
        full = given.counts > 0
        widths = np.diff(given.edges)[full]
        axes.bar(
            given.edges[:-1][full], given.accuracy[full], widths, align="edge", alpha=0.4, ec="C0"
        )
        axes.plot(given.confidence[full], given.accuracy[full], "o", color="C0", markersize=4)
        axes.plot((0, 1), (0, 1), "--", color="grey")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability", ylabel="share right")
        axes.set_title(f"{name} calibration, ECE = {given.ece:.4f}")
    return figure
