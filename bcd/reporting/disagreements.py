"""Images on which two models disagree, as a table and a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import fit
from bcd.evaluation.disagreements import Disagreement
from bcd.reporting.figures import TILE, draw_tiles
from bcd.storage import write_csv, written_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_disagreements(
    file: Path, found: Sequence[Disagreement], paths: Sequence[str], groups: Sequence[str]
) -> None:
    """Writes `disagreements.csv`; `paths` and `groups` are those of the images compared."""
    header = ["path", "group", "label", "prediction_a", "probability_a"]
    header += ["prediction_b", "probability_b", "right"]
    rows = []
    for d in found:
        both = [(s, f"{c:.6f}") for s, c in zip(d.said, d.certain, strict=True)]
        rows.append([paths[d.index], groups[d.index], d.label, *both[0], *both[1], d.right])
    write_csv(file, header, rows)


def draw_disagreements(
    found: Sequence[Disagreement],
    paths: Sequence[str],
    pixels: Callable[[int], NDArray[np.uint8]],
    most: int = 12,
) -> Figure | None:
    """Shows the first disagreements.

    Args:
        found: What `find_disagreements` gave.
        paths: Of the images compared.
        pixels: Gives the pixels of the i-th of them.
        most: How many to show.

    Returns:
        The figure, None where the models agree.
    """
    shown = found[:most]
    if not shown:
        return None
    tiles = [fit(pixels(d.index), TILE) for d in shown]
    titles = []
    for d in shown:
        said = [f"{n}: {s} ({c:.0%})" for n, s, c in zip("ab", d.said, d.certain, strict=True)]
        titles.append("\n".join([f"{written_path(Path(paths[d.index]).name)} is {d.label}", *said]))
    return draw_tiles(tiles, titles, min(4, len(shown)))
