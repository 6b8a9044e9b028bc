"""The tiles of a slide: their size, their places, and how much of each is stained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcd.errors import ConfigError
from bcd.slides.opening import MOST_REGION, SlideFacts
from bcd.slides.tissue import TissueMask

_LEAST = 16  # pixels that a tile is wide
_USUAL = "0.05 to 5"  # micrometres per pixel, with objectives of 100x to 4x and smaller images


@dataclass(frozen=True)
class Tile:
    """A tile of a slide, in pixels of level 0.

    Attributes:
        x: Its left edge.
        y: Its upper edge.
        width: Its width.
        height: Its height.
        tissue: Share of it that is stained; None where the overview could not be read.
    """

    x: int
    y: int
    width: int
    height: int
    tissue: float | None = None

    @property
    def region(self) -> tuple[int, int, int, int]:
        """Left, top, width and height."""
        return self.x, self.y, self.width, self.height


def tile_size(
    facts: SlideFacts, side: int, mpp: float | None, slide_mpp: float | None
) -> tuple[int, int]:
    """Width and height in pixels of level 0 of what a network's image shows.

    Args:
        facts: Of the slide.
        side: Of the network's images, pixels.
        mpp: Micrometres per pixel of these images; None to take pixels of level 0 as they are.
        slide_mpp: Micrometres per pixel of level 0; None for what the file says.

    Raises:
        ConfigError: The file does not say how large its pixels are, or a tile would be too small,
            too large, or larger than the slide.
    """
    size = (side, side)
    if mpp is not None:
        known = facts.mpp if slide_mpp is None else (slide_mpp, slide_mpp)
        if known is None:
            raise ConfigError(
                f"mpp={mpp}: the slide does not say how large its pixels are: give slide_mpp="
                "<micrometres per pixel of level 0>"
            )
        size = (round(side * mpp / known[0]), round(side * mpp / known[1]))
    width, height = size
    if why := _unusable(facts, side, size):
        if mpp is None:
            raise ConfigError(
                f"a tile has {width} x {height} pixels of level 0, {why}: give mpp=<micrometres "
                "per pixel of the training images>, or have it answered as one image by bcd predict"
            )
        raise ConfigError(
            f"mpp={mpp}: a tile has {width} x {height} pixels of level 0, {why}: give the "
            f"micrometres per pixel of the training images, {_USUAL} as a rule"
        )
    return size


def _unusable(facts: SlideFacts, side: int, size: tuple[int, int]) -> str:
    """Why tiles of a size in level 0 cannot be read; empty if they can."""
    if size[0] > facts.width or size[1] > facts.height:
        return f"but the slide has only {facts.width} x {facts.height}"
    if min(size) < _LEAST:
        return f"fewer than {_LEAST} x {_LEAST}"
    level = facts.best_level(min(size) / side)
    if math.prod(size) / level.downsample**2 > MOST_REGION:
        return f"at level {level.number} more than the {MOST_REGION} that are read at a time"
    return ""


class Grid:
    """Tiles that cover a slide, row by row; the last ones are moved to its edge.

    Args:
        facts: Of the slide.
        size: Width and height of a tile in pixels of level 0.
        overlap: Share of a tile's side that it shares with the next.

    Attributes:
        columns: Left edges.
        rows: Upper edges.
    """

    def __init__(self, facts: SlideFacts, size: tuple[int, int], overlap: float) -> None:
        self._size = size
        self.columns = _starts(facts.width, size[0], overlap)
        self.rows = _starts(facts.height, size[1], overlap)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def tiles(self, mask: TissueMask) -> Iterator[Tile]:
        """Yields all tiles with their share of tissue."""
        stained, known = (_integral(of) for of in (mask.stained, mask.known))
        width, height = self._size
        for y in self.rows:
            for x in self.columns:
                place = _place(x, width, mask.scale[0]), _place(y, height, mask.scale[1])
                area = (place[0][1] - place[0][0]) * (place[1][1] - place[1][0])
                tissue = None
                if _sum(known, place) == area:
                    tissue = float(_sum(stained, place) / area)
                yield Tile(x, y, width, height, tissue)


_Place = tuple[tuple[int, int], tuple[int, int]]


def _starts(whole: int, side: int, overlap: float) -> list[int]:
    step = max(1, round(side * (1 - overlap)))
    starts = list(range(0, whole - side + 1, step))
    if starts[-1] + side < whole:
        starts.append(whole - side)
    return starts


def _place(start: int, length: int, scale: float) -> tuple[int, int]:
    """First square of the mask and the one after the last."""
    first = min(round(start / scale), int((start + length - 1) / scale))
    return first, max(first + 1, round((start + length) / scale))


def _integral(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    sums = np.zeros((flags.shape[0] + 1, flags.shape[1] + 1), np.int32)
    sums[1:, 1:] = flags.cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
    return sums


def _sum(sums: NDArray[np.int32], place: _Place) -> int:
    (left, right), (top, bottom) = place
    return int(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])
