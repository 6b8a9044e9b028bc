"""The figure of a leaderboard: an interval per configuration, and parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bcd.reporting.figures import add_axes, new_figure
from bcd.sweeps.configurations import key_of
from bcd.sweeps.ranking import BEST, INDISTINGUISHABLE, WORSE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 40  # configurations shown; the table shows all
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
_STYLES = {BEST: ("C2", "D"), INDISTINGUISHABLE: ("C0", "o"), WORSE: ("grey", "s")}  # and markers


def draw_board(rows: Sequence[Row]) -> Figure:
    """Draws the configurations of a leaderboard.

    Left, best first: pooled accuracy on val with its interval, and a dot for each run. Right: a
    line per configuration through its values, up to its accuracy.
    """
    shown = [row for row in rows if row.interval is not None][:_MOST]
    keys = _varied(shown)
    wide = bool(keys) and len(shown) > 1
    figure = new_figure(13 if wide else 8, 1.6 + 0.28 * max(len(shown), 5))
    _intervals(add_axes(figure, (1, 1 + wide, 1), grid="x"), shown)
    if wide:
        _parallel(add_axes(figure, (1, 2, 2), grid=""), shown, keys)
    return figure


def _intervals(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        assert row.interval is not None
        colour, marker = _STYLES.get(row.verdict, _STYLES[WORSE])
        axes.plot(row.interval, (place, place), color=colour, linewidth=2)
        runs = [trial.accuracy for trial in row.configuration.done]
        axes.plot(runs, [place] * len(runs), ".", color=colour, alpha=0.5, markersize=5)
        axes.plot(row.pooled, place, marker, color=colour, markersize=6)
    for name, (colour, marker) in _STYLES.items():
        if any(row.verdict == name for row in rows):
            axes.plot([], [], f"{marker}-", color=colour, label=name)
    labels = [row.configuration.label for row in rows]
    axes.set_yticks(range(len(rows)), [_cut(t) for t in labels], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on val with 95 % interval; dots are runs")
    if rows:
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)


def _cut(label: str) -> str:
    return label if len(label) <= 60 else f"{label[:59]}…"


def _varied(rows: Sequence[Row]) -> list[str]:
    """Keys in which configurations differ."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in _values(row).items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def _values(row: Row) -> dict[str, str]:
    return {key_of(o): o.partition("=")[2] for o in row.configuration.overrides}


def _parallel(axes: Axes, rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Parallel coordinates: one axis per key, from its lowest to its highest value."""
    heights = [_heights([_values(row).get(key) for row in rows], axes, x)
               for x, key in enumerate(keys)]  # fmt: skip
    reached = np.array([row.pooled for row in rows])
    low, high = reached.min(), reached.max()
    heights.append((reached - low) / (high - low or 1))
    for place in reversed(range(len(rows))):
        line = [height[place] for height in heights]
        if place == 0:
            axes.plot(range(len(line)), line, color="C1", linewidth=3)
        else:  # worse ones are fainter
            faint = 0.8 - 0.6 * place / len(rows)
            axes.plot(range(len(line)), line, color="C0", linewidth=1.2, alpha=faint)
    for at, value in ((0, low), (1, high)):
        axes.text(len(keys) + 0.05, at, f"{value:.4f}", fontsize=8, va="center")
    axes.set_xticks(range(len(keys) + 1), [*keys, "val accuracy"], parse_math=False, fontsize=8)
    for x in range(len(keys) + 1):
        axes.axvline(x, color="#b0b0b0", zorder=0)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(keys) + 0.5)
    axes.set_title("values searched over; the best in bold", fontsize=9)


def _heights(values: Sequence[str | None], axes: Axes, x: int) -> np.ndarray:
    """Heights (n,) between 0 and 1; numbers to scale, or evenly spaced if there are few."""
    names = sorted({v for v in values if v is not None}, key=lambda v: (_number(v), v))
    numbers = np.array([_number(v) for v in names])
    if len(names) <= 8 or not np.isfinite(numbers).all():
        at = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
    else:
        scaled = np.log(numbers) if numbers.min() > 0 and numbers[-1] > 20 * numbers[0] else numbers
        at = (scaled - scaled[0]) / (scaled[-1] - scaled[0])
    labelled = range(len(names)) if len(names) <= 8 else (0, len(names) - 1)
    for i in labelled:
        text = names[i] if len(names[i]) < 12 else f"{numbers[i]:.3g}"
        axes.text(
            x + 0.03, at[i], text, fontsize=8, va="center", parse_math=False, bbox=_PLATE, zorder=9
        )
    place = dict(zip(names, at, strict=True))
    return np.array([np.nan if v is None else place[v] for v in values])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
