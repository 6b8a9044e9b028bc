"""Charts of probabilities: precision-recall and ROC curves of each class, and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.chart_data import precision_recall_points, roc_points
from bcd.reporting.figures import add_axes, new_figure
from bcd.reporting.svg import series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Floats = NDArray[np.float64]

_BINS = 40


def draw_precision_recall(
    probabilities: Floats,
    labels: NDArray[np.int64],
    metrics: Mapping[str, Any],
    title: str,
) -> Figure:
    """Draws precision over recall of each class against the rest, with its average precision.

    Args:
        probabilities: (n, classes).
        labels: (n,).
        metrics: With `average_precision_by_class`; classes of which it is None are left out.
        title: Of the figure.
    """
    figure, axes = _square(title, "recall", "precision")
    for number, (name, area) in enumerate(metrics["average_precision_by_class"].items()):
        if area is not None:
            precision, recall = precision_recall_points(labels == number, probabilities[:, number])
            # Average precision takes the precision at the upper end of each step.
            line = _curve(axes, recall[::-1], precision[::-1], number, f"{name}, AP {area:.3f}")
            line.set_drawstyle("steps-pre")
    _finish(axes, "lower left")
    return figure


def draw_roc(
    probabilities: Floats,
    labels: NDArray[np.int64],
    metrics: Mapping[str, Any],
    title: str,
) -> Figure:
    """Draws sensitivity over 1 - specificity of each class against the rest, with its AUROC.

    Args:
        probabilities: (n, classes).
        labels: (n,).
        metrics: With `auroc_by_class`; classes of which it is None are left out.
        title: Of the figure.
    """
    figure, axes = _square(title, "1 - specificity", "sensitivity")
    axes.plot((0, 1), (0, 1), "--", color="grey", linewidth=1)
    for number, (name, area) in enumerate(metrics["auroc_by_class"].items()):
        if area is not None:
            curve = roc_points(labels == number, probabilities[:, number])
            _curve(axes, *curve, number, f"{name}, AUROC {area:.3f}")
    _finish(axes, "lower right")
    return figure


def draw_scores(
    p: Floats,
    malignant: NDArray[np.bool_],
    threshold: float | None,
    title: str,
) -> Figure:
    """Draws histograms of the probability of malignancy, of benign and of malignant images.

    Args:
        p: Probability of malignancy, (n,).
        malignant: Which images are malignant, (n,).
        threshold: From which an image is called malignant; None if there is none.
        title: Of the figure.
    """
    figure = new_figure(5.6, 3.4, (0.7, 0.5, 0.2, 0.6))
    axes = add_axes(figure, grid="y")
    for number, (name, own) in enumerate((("benign", ~malignant), ("malignant", malignant))):
        counts, edges = np.histogram(p[own], _BINS, (0, 1))
        label = f"{name}, n = {own.sum()}"
        axes.stairs(counts, edges, color=f"C{number}", alpha=0.2, fill=True)
        style = {"color": f"C{number}", "linestyle": series(number)["linestyle"]}
        axes.stairs(counts, edges, linewidth=1.5, label=label, **style)
    if threshold is not None:
        label = f"threshold {threshold:.3g}"
        axes.axvline(threshold, color="black", linestyle=":", linewidth=1.5, label=label)
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="probability of malignancy", ylabel="images")
    above: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.97), "ncols": 3}
    axes.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=9, **above)
    axes.set_title(title, parse_math=False, pad=24)
    return figure


def _square(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = new_figure(4.6, 4.4, (0.65, 0.5, 0.2, 0.35))
    axes = add_axes(figure)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.set_title(title, parse_math=False)
    return figure, axes


def _curve(axes: Axes, x: Floats, y: Floats, number: int, label: str) -> Line2D:
    """A curve with a few markers, which lie apart from those of other series."""
    every = max(len(x) // 6, 1)
    style = series(number) | {"markersize": 5, "markevery": (number * every // 6, every)}
    (line,) = axes.plot(x, y, linewidth=1.5, label=label, **style)
    return line


def _finish(axes: Axes, place: Literal["lower left", "lower right"]) -> None:
    legend = axes.legend(frameon=False, fontsize=9, loc=place)
    for text in legend.get_texts():
        text.set_parse_math(False)
