"""Figure and table of metrics under corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bcd.evaluation.robustness_table import Rows
from bcd.evaluation.unsafe import UNSAFE_SHARES
from bcd.reporting.figures import add_axes, new_figure
from bcd.reporting.results import UNSAFE_COLUMNS
from bcd.reporting.svg import save_svg
from bcd.storage import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 5


def draw_robustness(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws accuracy over strength, one panel per kind; dashed is the accuracy without corruption.

    Args:
        rows: As returned by `robustness_table`, uncorrupted images first.
    """
    plain, *corrupted = rows
    kinds = list(dict.fromkeys(row["kind"] for row in corrupted))
    lines = -(-len(kinds) // _COLUMNS)
    figure = new_figure(2.1 * _COLUMNS, 2.0 * lines + 0.5)
    # One scale for all panels, starting at the tenth below the lowest accuracy.
    lowest = np.floor(10 * min(row["accuracy"] for row in rows) - 1e-9) / 10
    for number, kind in enumerate(kinds):
        axes = add_axes(figure, (lines, _COLUMNS, number + 1))
        some = [row for row in corrupted if row["kind"] == kind]
        places, values = range(len(some)), [row["accuracy"] for row in some]
        # No line between points: between two of opposite sign there is no corruption at all.
        axes.vlines(places, plain["accuracy"], values, "C0", linewidth=1.5, alpha=0.5)
        axes.plot(places, values, marker="o", markersize=4, linestyle="none")
        axes.axhline(plain["accuracy"], color="black", linestyle="--", linewidth=0.8)
        axes.set_xticks(places, [row["strength"] for row in some], fontsize=7)
        axes.set_xlim(-0.5, len(some) - 0.5)
        axes.set_ylim(max(lowest, 0) - 0.02, 1.02)
        axes.tick_params(axis="y", labelsize=7, labelleft=number % _COLUMNS == 0)
        axes.set_title(kind, fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    figure.suptitle(f"n = {plain['n']}; dashed: without corruption", fontsize=11)
    return figure


def write_robustness(run_dir: Path, rows: Rows) -> None:
    """Writes `robustness.csv` and `figures/robustness.svg`."""
    write_csv(run_dir / "robustness.csv", list(rows[0]), [list(row.values()) for row in rows])
    save_svg(draw_robustness(rows), run_dir / "figures" / "robustness.svg")


def robustness_cells(rows: Rows, intervals: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table; unsafe answers only if there is a benign class.

    Args:
        rows: As returned by `robustness_table`.
        intervals: Whether shares of unsafe answers have theirs; a terminal is too narrow for them.
    """
    unsafe = [name for name in UNSAFE_SHARES if name in rows[0]]
    header = ["corruption", "accuracy", "balanced accuracy", "ECE", "referred"]
    header += [UNSAFE_COLUMNS[name] for name in unsafe]
    return [*header, "n"], [
        [
            _corruption(row) if row["kind"] != "none" else "uncorrupted",
            *(f"{row[name]:.3f}" for name in ("accuracy", "balanced_accuracy", "ece", "referred")),
            *(_unsafe_text(row, name, intervals) for name in unsafe),
            str(row["n"]),
        ]
        for row in rows
    ]


def worst_unsafe_line(rows: Rows) -> str:
    """States under which corruption most malignant images are unsafe; empty if this is unknown."""
    name = "unsafe_malignant"
    known = [row for row in rows[1:] if row.get(name) is not None]
    if not known:
        return ""
    worst = max(known, key=lambda row: float(row[name]))
    return (
        "unsafe answers, of malignant images: highest under corruption "
        f"{_unsafe_text(worst, name)} ({_corruption(worst)}); uncorrupted "
        f"{_unsafe_text(rows[0], name)}"
    )


def _corruption(row: Mapping[str, Any]) -> str:
    return f"{row['kind']} {row['strength']}".strip()


def _unsafe_text(row: Mapping[str, Any], name: str, interval: bool = True) -> str:
    if row[name] is None:
        return ""
    if not interval:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
