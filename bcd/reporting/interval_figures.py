"""Charts of figures with their uncertainty: intervals of metrics, and errors by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bcd.evaluation.chart_data import GroupErrors
from bcd.reporting.figures import add_axes, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
MOST_GROUPS = 20  # shown in the chart of errors by group
_LONGEST = 28  # characters of a name beside a chart


def draw_intervals(metrics: Mapping[str, Any], title: str) -> Figure | None:
    """Draws metrics with their 95 % intervals, then the sensitivity of each class.

    Args:
        metrics: As from `evaluate`, with intervals.
        title: Of the figure.

    Returns:
        The figure; None if there are no intervals.
    """
    found = [
        (name.replace("_", " "), metrics[name], metrics.get(f"{name}_ci"), "o")
        for name in _METRICS
        if name in metrics
    ]
    of_class = metrics.get("sensitivity_by_class_ci") or {}
    found += [
        (f"sensitivity {name}", metrics["sensitivity_by_class"][name], interval, "s")
        for name, interval in of_class.items()
    ]
    rows: list[tuple[str, float, Sequence[float], str]] = [
        (name, value, interval, marker)
        for name, value, interval, marker in found
        if value is not None and interval is not None
    ]
    if not rows:
        return None
    left = 0.3 + 0.075 * min(max(len(row[0]) for row in rows), _LONGEST)
    height = 0.9 + 0.26 * len(rows)
    figure = new_figure(left + 4.9, height, (left, 0.5, 0.2, 0.35))
    axes = add_axes(figure, grid="x")
    for place, (_, value, (low, high), marker) in enumerate(rows):
        axes.plot((low, high), (place, place), "-", color="C0", linewidth=2, alpha=0.6)
        axes.plot(value, place, marker, color="C0", markersize=6)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(
        range(len(rows)), [shortened(row[0], _LONGEST) for row in rows], parse_math=False
    )
    axes.set_xlabel("value with 95 % interval")
    axes.set_title(title, parse_math=False)
    return figure


def draw_group_errors(found: Sequence[GroupErrors], groups: int, title: str) -> Figure:
    """Draws the share of wrong answers in groups.

    Args:
        found: The groups to show, worst first; at least one.
        groups: Number of all groups.
        title: Of the figure.
    """
    from matplotlib.ticker import PercentFormatter

    left = 0.3 + 0.075 * min(max(len(group.name) for group in found), _LONGEST)
    figure = new_figure(left + 4.9, 0.9 + 0.24 * len(found), (left, 0.5, 0.8, 0.35))
    axes = add_axes(figure, grid="x")
    places, shares = range(len(found)), [group.share for group in found]
    axes.hlines(places, 0, shares, "C1", linewidth=5, alpha=0.6)
    for place, group in enumerate(found):
        text, at = f"{group.wrong} of {group.n}", (group.share, place)
        axes.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xlim=(0, None), ylim=(len(found) - 0.5, -0.5))
    axes.set_yticks(places, [shortened(group.name, _LONGEST) for group in found], parse_math=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    shown = f"the worst {len(found)} of {groups} groups" if len(found) < groups else "all groups"
    axes.set_xlabel(f"share of errors, {shown}")
    axes.set_title(title, parse_math=False)
    return figure
