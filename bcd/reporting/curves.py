"""Reliability diagram, risk-coverage curve and learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_reliability(before: Reliability, after: Reliability) -> Figure:
    """Draws accuracy over confidence, before and after calibration; the diagonal is ideal."""
    from bcd.reporting.figures import new_figure

    figure = new_figure(8, 4, (0.6, 0.5, 0.2, 0.4))
    for number, (name, data) in enumerate((("before", before), ("after", after)), start=1):
        axes = figure.add_subplot(1, 2, number)
        filled = data.counts > 0
        widths = np.diff(data.edges)[filled]
        axes.bar(
            data.edges[:-1][filled], data.accuracy[filled], widths, align="edge", alpha=0.4, ec="C0"
        )
        axes.plot(data.confidence[filled], data.accuracy[filled], "o", color="C0", markersize=4)
        axes.plot((0, 1), (0, 1), "--", color="grey")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        axes.set_title(f"{name} calibration, ECE = {data.ece:.4f}")
    return figure


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

    from bcd.reporting.figures import new_figure

    figure = new_figure(5, 3.4, (0.95, 0.5, 0.25, 0.4))
    axes = figure.add_subplot()
    axes.step(coverage, risk, where="mid")
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="share of images decided", ylabel="error rate")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.set_title(title, parse_math=False)
    return figure


def draw_learning_curve(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws accuracy, with its interval, over the number of groups trained on.

    Args:
        points: With `groups`, `accuracy` and `accuracy_ci`, from few to many groups.
    """
    from bcd.reporting.figures import new_figure

    figure = new_figure(5, 3.4, (0.95, 0.5, 0.25, 0.4))
    axes = figure.add_subplot()
    groups, accuracy = ([p[name] for p in points] for name in ("groups", "accuracy"))
    low, high = zip(*(p["accuracy_ci"] for p in points), strict=True)
    axes.vlines(groups, low, high, alpha=0.5)
    axes.plot(groups, accuracy, marker="o", markersize=4)
    axes.set_xscale("log")
    axes.set(xlabel="groups trained on", ylabel="accuracy", title="out of fold")
    axes.grid(alpha=0.3)
    return figure
