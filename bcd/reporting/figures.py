"""Figures of results: confusion matrix, training curves, misclassified images.

Charts are written as SVG (`bcd/reporting/svg.py`), photographs as PNG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import fit
from bcd.reporting.svg import series
from bcd.storage import replacing, written_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bcd.evaluation.predictions import Mistake

DPI = 120


def new_figure(
    width: float, height: float, margins: tuple[float, float, float, float] | None = None
) -> Figure:
    """Creates an empty figure without pyplot's global state.

    Args:
        width: In inches.
        height: In inches.
        margins: Left, bottom, right and top in inches; None lets matplotlib determine them, which
            takes longer than drawing.
    """
    from matplotlib.figure import Figure

    if margins is None:
        return Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    figure = Figure(figsize=(width, height), dpi=DPI)
    left, bottom, right, top = margins
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=0.25
    )
    return figure


def shortened(name: str, longest: int) -> str:
    """A name, cut with an ellipsis if it has more than `longest` characters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}\u2026"


def png(figure: Figure) -> bytes:
    """A figure of photographs as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", pil_kwargs={"compress_level": 3})
    return stream.getvalue()


def save_png(figure: Figure, file: Path) -> None:
    """Writes a figure of photographs as PNG; the file is replaced atomically."""
    content = png(figure)
    with replacing(file) as stream:
        stream.write(content)


def add_axes(figure: Figure, place: tuple[int, int, int] = (1, 1, 1), grid: str = "both") -> Axes:
    """Adds axes with a grid behind the data, and no frame above and to the right.

    Args:
        figure: The figure.
        place: Rows, columns and number of the axes, from 1.
        grid: Direction of the grid lines: `both`, `x`, `y`, or empty for none.
    """
    axes = figure.add_subplot(*place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, linewidth=0.8)  # type: ignore[arg-type]
    return axes


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draws a confusion matrix with counts, shaded by the share of the true class.

    Args:
        matrix: (k, k); rows are true classes.
        classes: Class names.
        title: Of the figure.
    """
    from matplotlib.patches import Rectangle

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k, longest = len(classes), max(map(len, classes))
    left, bottom = 0.6 + 0.09 * longest, 0.7 + 0.05 * longest  # names below are at 30 degrees
    cells = 0.8 * max(k, 2)
    figure = new_figure(left + cells + 0.2, bottom + cells + 0.4, (left, bottom, 0.2, 0.4))
    axes = add_axes(figure, grid="")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), xlabel="predicted", ylabel="true")
    # Names may contain dollar signs, which are not formulas.
    axes.set_xticks(range(k), classes, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(k), classes, parse_math=False)
    axes.set_title(title, parse_math=False)
    for i, j in np.ndindex(*counts.shape):
        # At most half opaque: text in the page's own colour is readable on it in any theme.
        place = (j - 0.48, i - 0.48)
        axes.add_patch(Rectangle(place, 0.96, 0.96, fc="C0", alpha=0.04 + 0.46 * shares[i, j]))
        text = f"{counts[i, j]}\n{shares[i, j]:.1%}" if counts[i, j] else "0"
        axes.text(j, i, text, ha="center", va="center", fontsize=9)
    return figure


def draw_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draws loss and accuracy on train and val over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 3.2, (0.65, 0.5, 0.2, 0.35))
    for number, name in enumerate(("loss", "accuracy"), start=1):
        axes = add_axes(figure, (1, 2, number))
        for place, subset in enumerate(("train", "val")):
            values = [epoch.get(f"{subset}/{name}", np.nan) for epoch in history]
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, **series(place), markersize=5, label=subset)
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.legend(frameon=False)
    return figure


def draw_mistakes(
    mistakes: Sequence[Mistake], pixels: Callable[[int], NDArray[np.uint8]], most: int = 12
) -> Figure | None:
    """Draws misclassified images.

    Args:
        mistakes: As returned by `find_mistakes`.
        pixels: Maps the index of a prediction to the pixels of its image.
        most: Largest number of images shown.

    Returns:
        The figure; None if there is no mistake.
    """
    shown = mistakes[:most]
    if not shown:
        return None
    titles = [
        f"{written_path(Path(m.path).name)}\nis {m.label}\npredicted {m.prediction} "
        f"({m.probability:.0%})"
        for m in shown
    ]
    tiles = [fit(pixels(m.index), TILE) for m in shown]
    return draw_tiles(tiles, titles, min(4, len(shown)))


TILE, _GAP, _TITLE = 224, 12, 62  # pixels


def draw_tiles(tiles: Sequence[NDArray[np.uint8]], titles: Sequence[str], columns: int) -> Figure:
    """Draws images in a grid as a single image, because one axes per image would take seconds.

    Args:
        tiles: RGB, shape (224, 224, 3).
        titles: Up to three lines above each image.
        columns: Number of images per row.
    """
    from matplotlib.figure import Figure

    rows = -(-len(tiles) // columns)
    height, width = rows * (_TITLE + TILE + _GAP), columns * (TILE + _GAP)
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        top = number // columns * (_TITLE + TILE + _GAP) + _TITLE
        left = number % columns * (TILE + _GAP) + _GAP // 2
        canvas[top : top + TILE, left : left + TILE] = tile
        axes.text(
            left + TILE / 2, top - 4, title, ha="center", va="bottom", fontsize=7, parse_math=False
        )
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return figure
