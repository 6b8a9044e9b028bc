"""Pictures of which two models say different things: which they are, and who was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import fit
from bcd.reporting.figures import TILE, draw_tiles
from bcd.storage import write_csv, written_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Disagreement:
    """What two models say of a picture.

    Attributes:
        index: Of the picture, among those compared.
        label: Its true class.
        said: Class that each model says.
        certain: Probability that each gives to it.
    """

    index: int
    label: str
    said: tuple[str, str]
    certain: tuple[float, float]

    @property
    def right(self) -> str:
        """`a`, `b` or `neither`."""
        if self.label not in self.said:
            return "neither"
        return "ab"[self.said.index(self.label)]


def find_disagreements(
    a: NDArray[np.floating[Any]],
    b: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
) -> list[Disagreement]:
    """Finds disagreements; first those where the less certain model is most certain.

    Args:
        a: Probabilities (n, classes) of one model.
        b: Of the other, with classes in the same order.
        labels: (n,).
        classes: Class names.
    """
    found = []
    for index in np.flatnonzero(a.argmax(axis=1) != b.argmax(axis=1)):
        best = [int(p[index].argmax()) for p in (a, b)]
        said = (classes[best[0]], classes[best[1]])
        certain = (float(a[index, best[0]]), float(b[index, best[1]]))
        found.append(Disagreement(int(index), classes[labels[index]], said, certain))
    return sorted(found, key=lambda d: (-min(d.certain), d.index))


def write_disagreements(
    file: Path, found: Sequence[Disagreement], paths: Sequence[str], groups: Sequence[str]
) -> None:
    """Writes `disagreements.csv`; `paths` and `groups` are those of the pictures compared."""
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
        paths: Of the pictures compared.
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
