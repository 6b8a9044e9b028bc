"""Reliability diagram, risk-coverage curve and learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.calibration import Reliability
from bcd.reporting.figures import add_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_reliability(before: Reliability, after: Reliability, title: str) -> Figure:
    """Draws accuracy over confidence, before and after calibration; the diagonal is ideal.

    Args:
        before: Without temperature scaling.
        after: With it.
        title: Of the figure.
    """
    figure = new_figure(8, 3.7, (0.65, 0.5, 0.2, 0.6))
    for number, (name, data) in enumerate((("before", before), ("after", after)), start=1):
        axes = add_axes(figure, (1, 2, number))
        filled = data.counts > 0
        low, high = data.edges[:-1][filled], data.edges[1:][filled]
        reached, expected = data.accuracy[filled], data.confidence[filled]
        # One line for all bins, because each bar would take as long as one.
        axes.fill_between(*_bars(low, high, reached), color="C0", alpha=0.25, linewidth=0)
        axes.vlines(expected, np.minimum(reached, expected), np.maximum(reached, expected), "C1")
        axes.plot(expected, reached, "o", color="C0", markersize=5)
        axes.plot((0, 1), (0, 1), "--", color="grey", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        axes.set_title(f"{name} calibration, ECE = {data.ece:.4f}", fontsize=10)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _bars(
    low: NDArray[np.float64], high: NDArray[np.float64], heights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outline of bars from 0, as places and heights."""
    places = np.stack([low, low, high, high], axis=1).ravel()
    none = np.zeros_like(heights)
    return places, np.stack([none, heights, heights, none], axis=1).ravel()


def draw_risk_coverage(
    coverage: NDArray[np.float64], risk: NDArray[np.float64], title: str
) -> Figure:
    """Draws the error rate over the share of images decided.

    Args:
        coverage: (n,), from `risk_coverage`.
        risk: (n,), from `risk_coverage`.
        title: Of the figure.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(5, 3.2, (0.8, 0.5, 0.25, 0.35))
    axes = add_axes(figure)
    axes.step(coverage, risk, where="mid")
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="share of images decided", ylabel="error rate")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_title(title, parse_math=False)
    return figure


def draw_learning_curve(points: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws accuracy, with its interval, over the number of groups trained on.

    Args:
        points: With `groups`, `accuracy` and `accuracy_ci`, from few to many groups.
        title: Of the figure.
    """
    figure = new_figure(5, 3.2, (0.8, 0.5, 0.25, 0.35))
    axes = add_axes(figure)
    groups, accuracy = ([p[name] for p in points] for name in ("groups", "accuracy"))
    low, high = zip(*(p["accuracy_ci"] for p in points), strict=True)
    axes.vlines(groups, low, high, "C0", linewidth=2, alpha=0.5)
    axes.plot(groups, accuracy, marker="o", markersize=5)
    axes.set_xscale("log")
    axes.set(xlabel="groups trained on", ylabel="accuracy, 95 % interval")
    axes.set_title(title, parse_math=False)
    return figure
