"""Draws the answers for the tiles of a slide over its overview."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bcd.reporting.figures import new_figure, save_png
from bcd.slides.opening import Pixels, shrunk
from bcd.slides.tiles import Tile
from bcd.slides.tissue import Overview

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 1024  # pixels of the map's longest side
_PANEL = 6.5  # inches of its longest side
_OPACITY = 0.65
_STRIPE = 7  # pixels between the stripes of referred tiles
_COLOURS = "coolwarm"
_FAILED = (0, 0, 0)


class HeatMap:
    """A map of answers; its size does not depend on the number of tiles.

    Where tiles overlap, it shows the mean of their values, and a place counts as referred if most
    of its tiles are.

    Args:
        overview: Of the slide.
    """

    def __init__(self, overview: Overview) -> None:
        height, width = overview.pixels.shape[:2]
        factor = max(max(height, width) / _LONGEST, 1.0)
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        self._image = shrunk(overview.pixels, size)
        slide = width * overview.scale[0], height * overview.scale[1]
        self._scale = slide[0] / size[0], slide[1] / size[1]
        # Sum of values, and numbers of answers, of referred and of failed tiles.
        self._sums = np.zeros((4, size[1], size[0]), np.float32)

    def add(self, tile: Tile, value: float | None, referred: bool) -> None:
        """Adds a tile.

        Args:
            tile: Where it is.
            value: Of its answer; None if it has none.
            referred: Whether it is referred.
        """
        columns = _between(tile.x, tile.width, self._scale[0])
        rows = _between(tile.y, tile.height, self._scale[1])
        if value is None:
            self._sums[3, rows, columns] += 1
            return
        self._sums[0, rows, columns] += value
        self._sums[1, rows, columns] += 1
        self._sums[2, rows, columns] += referred

    def draw(self) -> Pixels:
        """The map without axes, RGB, (height, width, 3)."""
        import matplotlib as mpl

        total, count, referred, failed = self._sums
        mean = total / np.maximum(count, 1)
        colours = mpl.colormaps[_COLOURS](mean)[..., :3] * 255
        grey = cv2.cvtColor(self._image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
        over = (1 - _OPACITY) * grey + _OPACITY * colours
        drawn = np.where((count > 0)[..., None], over, grey)
        row, column = np.indices(count.shape)
        stripe = (row + column) % _STRIPE < 2
        drawn[(count > 0) & (referred * 2 > count) & stripe] = 255
        drawn[(failed > 0) & (count == 0)] = _FAILED
        return np.asarray(drawn, np.uint8)

    def save(self, file: Path, label: str) -> None:
        """Writes the overview and the map beside it, with a colour bar.

        Args:
            file: PNG to write.
            label: What the colours mean.
        """
        from matplotlib.cm import ScalarMappable
        from matplotlib.patches import Patch

        height, width = self._image.shape[:2]
        wide, high = (_PANEL * side / max(height, width) for side in (width, height))
        figure = new_figure(2 * max(wide, 3) + 1.6, max(high, 2.5) + 1.1)
        left, right = (figure.add_subplot(1, 2, number) for number in (1, 2))
        _show(left, self._image, "overview")
        _show(right, self.draw(), "tiles")
        scale = ScalarMappable(cmap=_COLOURS)
        scale.set_clim(0, 1)
        figure.colorbar(scale, ax=right, label=label, shrink=0.8)
        patches = [
            Patch(fc="0.4", ec="white", hatch="////", label="referred"),
            Patch(fc=tuple(part / 255 for part in _FAILED), label="no answer"),
            Patch(fc="0.85", label="left out"),
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
        save_png(figure, file)


def _between(start: int, length: int, scale: float) -> slice:
    """Pixels of the map; neighbours without overlap share none unless they are narrower."""
    first = round(start / scale)
    return slice(first, max(first + 1, round((start + length) / scale)))


def _show(axes: Axes, image: Pixels, title: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
