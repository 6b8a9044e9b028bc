"""Figures of results: confusion matrix, training curves, misclassified images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import fit
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


def save_figure(figure: Figure, file: Path) -> None:
    """Writes a PNG; the file is replaced atomically."""
    with replacing(file) as stream:
        figure.savefig(stream, format="png", pil_kwargs={"compress_level": 3})


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draws a confusion matrix with counts, shaded by the share of the true class.

    Args:
        matrix: (k, k); rows are true classes.
        classes: Class names.
        title: Of the figure.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.75 * len(classes)
    figure = new_figure(side + 0.6, side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    # Names may contain dollar signs, which are not formulas.
    axes.set_xticks(ticks, classes, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(ticks, classes, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    for i, j in np.ndindex(*counts.shape):
        colour = "white" if shares[i, j] > 0.5 else "black"
        text = f"{counts[i, j]}\n{shares[i, j]:.1%}" if counts[i, j] else "0"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    return figure


def draw_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draws loss and accuracy on train and val over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 3.4, (0.75, 0.5, 0.2, 0.4))
    for number, name in enumerate(("loss", "accuracy"), start=1):
        axes: Axes = figure.add_subplot(1, 2, number)
        for subset in ("train", "val"):
            values = [epoch.get(f"{subset}/{name}", np.nan) for epoch in history]
            axes.plot(range(1, len(values) + 1), values, marker="o", label=subset)
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
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
