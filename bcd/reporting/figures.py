"""Images of results: confusion matrix, curves over the epochs, the worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import fit
from bcd.storage import replacing, written_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bcd.evaluation.predictions import Prediction

DPI = 120


def new_figure(
    width: float, height: float, margins: tuple[float, float, float, float] | None = None
) -> Figure:
    """An empty figure without pyplot's global state.

    Args:
        width: In inches.
        height: In inches.
        margins: Left, bottom, right and top in inches; None lets matplotlib find them, which takes
            longer than drawing.
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
    """Writes a PNG in one move."""
    with replacing(file) as stream:
        figure.savefig(stream, format="png", pil_kwargs={"compress_level": 3})


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Figure:
    """Draws counts, shaded by the share of the true class.

    Args:
        matrix: (k, k); rows are true classes.
        classes: Class names.
        title: Stands above.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.75 * len(classes)
    figure = new_figure(side + 0.6, side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    # Names are no formulas, though they may hold dollar signs.
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
    """Draws loss and accuracy of train and val over the epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 3.4, (0.75, 0.5, 0.2, 0.4))
    for number, name in enumerate(("loss", "accuracy"), start=1):
        axes: Axes = figure.add_subplot(1, 2, number)
        for part in ("train", "val"):
            values = [epoch.get(f"{part}/{name}", np.nan) for epoch in history]
            axes.plot(range(1, len(values) + 1), values, marker="o", label=part)
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def draw_mistakes(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    pixels: Callable[[int], NDArray[np.uint8]],
    most: int = 12,
) -> Figure | None:
    """Shows the images that were wrong with the highest probability.

    Args:
        predictions: Of the evaluated images.
        classes: Class names.
        pixels: Gives the pixels of the i-th prediction's image.
        most: How many to show.

    Returns:
        The figure, None if nothing was wrong.
    """
    wrong = _mistakes(predictions, classes)[:most]
    if not wrong:
        return None
    tiles, titles = [], []
    for index, said, probability in wrong:
        name, label = written_path(Path(predictions[index].path).name), predictions[index].label
        tiles.append(fit(pixels(index), TILE))
        titles.append(f"{name}\nis {label}\nsaid {said} ({probability:.0%})")
    return draw_tiles(tiles, titles, min(4, len(wrong)))


TILE, _GAP, _TITLE = 224, 12, 62  # pixels


def draw_tiles(tiles: Sequence[NDArray[np.uint8]], titles: Sequence[str], columns: int) -> Figure:
    """Draws images in a grid, as one image: an axes for each would take seconds.

    Args:
        tiles: RGB, shape (224, 224, 3).
        titles: Up to three lines for above each.
        columns: Images in a row.
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


def _mistakes(
    predictions: Sequence[Prediction], classes: Sequence[str]
) -> list[tuple[int, str, float]]:
    """Index, predicted class and its probability of each wrong prediction, surest first."""
    found: list[tuple[int, str, float]] = []
    for index, prediction in enumerate(predictions):
        best: Any = int(np.argmax(prediction.probabilities))
        if classes[best] != prediction.label:
            found.append((index, classes[best], prediction.probabilities[best]))
    return sorted(found, key=lambda item: -item[2])
