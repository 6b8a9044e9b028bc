"""Small pictures for TensorBoard, drawn in a few milliseconds, without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.data.reading import fit
from bcd.reporting.figures import shortened

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Pixels = NDArray[np.uint8]

_INK, _PAPER, _SHADE = (31, 35, 40), (255, 255, 255), (0, 114, 178)
_CELL, _LINE = 64, 18  # pixels
_LONGEST = 16  # characters of a class name


def confusion_image(matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str) -> Pixels:
    """Draws a confusion matrix with counts, shaded by the share of the true class.

    Args:
        matrix: (k, k); rows are true classes.
        classes: Class names.
        title: Above the matrix.

    Returns:
        RGB, shape (height, width, 3).
    """
    from PIL import Image, ImageDraw

    counts, k = np.asarray(matrix), len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [shortened(name, _LONGEST) for name in classes]
    font = _font()
    longest = int(max(font.getlength(name) for name in names))
    left, top, wide = longest + 12, 2 * _LINE + 8, max(longest + 12, _CELL)
    canvas = Image.new("RGB", (left + k * wide + 8, top + k * _CELL + _LINE + 8), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 4), title, _INK, font)
    for i, j in np.ndindex(*counts.shape):
        x, y = left + j * wide, top + i * _CELL
        draw.rectangle((x, y, x + wide - 2, y + _CELL - 2), _mixed(0.6 * float(shares[i, j])))
        middle = (x + wide // 2, y + _CELL // 2)
        draw.text(middle, str(counts[i, j]), _INK, font, "mm")
    for place, name in enumerate(names):
        draw.text((left - 6, top + place * _CELL + _CELL // 2), name, _INK, font, "rm")
        draw.text((left + place * wide + wide // 2, top - 4), name, _INK, font, "md")
    draw.text((left, top + k * _CELL + 2), "rows: true, columns: predicted", _INK, font)
    return np.asarray(canvas)


def captioned(pixels: Pixels, lines: Sequence[str], side: int = 128) -> Pixels:
    """A photograph of `side` pixels with lines of text below it.

    Args:
        pixels: RGB, of any size.
        lines: The text; what does not fit is cut off.
        side: Of the photograph, in pixels.

    Returns:
        RGB, shape (side + 18 per line, side, 3).
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (side, side + _LINE * len(lines) + 4), _PAPER)
    canvas.paste(Image.fromarray(fit(pixels, side)))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((4, side + 2 + _LINE * number), line, _INK, _font())
    return np.asarray(canvas)


def side_by_side(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Pictures of the same size in rows of `columns`, on white."""
    height, width = tiles[0].shape[:2]
    rows, gap = -(-len(tiles) // columns), 6
    across = min(columns, len(tiles))
    sheet = np.full((rows * (height + gap), across * (width + gap), 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet


@cache
def _font() -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    # The font of matplotlib, which has the letters of most languages.
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), 12)


def _mixed(share: float) -> tuple[int, int, int]:
    """The shade mixed with paper."""
    red, green, blue = (
        round(share * s + (1 - share) * p) for s, p in zip(_SHADE, _PAPER, strict=True)
    )
    return red, green, blue
