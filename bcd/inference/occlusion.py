"""Occlusion of any model, without torch: how its answer changes as squares are covered.

As `bcd.explain.methods.occlusion`, but for models of which only the answers are known, and with
fewer calls: small squares only where a large one lowers the log-odds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.config.input_views import CELLS, InputView
from bcd.data.input_views import split_described
from bcd.data.roi import cell_boxes
from bcd.inference.model import Model

Pixels = NDArray[np.uint8]
Layer = NDArray[np.float64]

# Sides of the squares, as shares of the image's: a few cells, and about one white cell.
_LARGE, _SMALL = 1 / 3, 1 / 6
_MOST_SMALL = 40  # squares: those where the large ones lower the log-odds most
_CALL = 4  # images of one call, on a CPU
_SMOOTHING = (
    0.04  # standard deviation, as a share of the side: squares have edges, evidence has not
)

Square = tuple[float, float, float]  # top, left and side, as shares of the image's side


def occlusion(model: Model, packed: Pixels, target: int) -> NDArray[np.float32]:
    """Where the evidence for a class is: what lowers its log-odds when it is covered.

    Squares get the colour of the image's background, as if nothing were there, at the same place of
    every input view. So the map cannot show evidence in the background itself. White cells that
    the network gets one by one are left out one by one.

    Args:
        model: It answers `model.threads` calls at a time.
        packed: What was read of one image.
        target: Index of the class.

    Returns:
        A map (side, side), not negative, with the sum 1, or 0 everywhere if no place speaks for the
        class. The side is that of the largest input view.
    """
    views = model.facts.input_views
    with _Asking(model, packed, target) as asking:
        if views[0].roi == CELLS:
            found = _of_cells(asking, views[0])
        else:
            found = _of_squares(asking, max(view.side for view in views))
    positive = np.where(np.isfinite(found), np.maximum(found, 0), 0)
    total = positive.sum()
    return (positive / (total if total > 0 else 1)).astype(np.float32)


class _Asking:
    """Asks for the log-odds of a class in changed copies of an image."""

    def __init__(self, model: Model, packed: Pixels, target: int) -> None:
        self._model, self._packed, self._target = model, packed, target
        self.views = model.facts.input_views
        self._pool = ThreadPoolExecutor(model.threads, "occluding")
        self.before = float(self._log_odds(packed[None])[0])
        self.got = split_described(packed[None], self.views)[1][0]
        self._offset = packed.size - self.got.size  # the described image is in front

    def __enter__(self) -> _Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def falls(self, changes: Sequence[_Change]) -> Layer:
        """By how much each change lowers the log-odds, (n,)."""
        size = _CALL if self._model.batch is not None else 4 * _CALL
        parts = [changes[first : first + size] for first in range(0, len(changes), size)]
        found = list(self._pool.map(self._ask, parts))
        return self.before - (np.concatenate(found) if found else np.zeros(0))

    def _ask(self, changes: Sequence[_Change]) -> Layer:
        batch = np.repeat(self._packed[None], len(changes), axis=0)
        flat = batch.reshape(len(changes), -1)
        for one, change in zip(flat, changes, strict=True):
            for rows, colour in change:
                one[self._offset + rows] = colour
        return self._log_odds(batch)

    def _log_odds(self, batch: Pixels) -> Layer:
        """Of the class against all others, (n,); finite also where the model is sure."""
        probabilities = self._model.answer(batch).probabilities
        own = probabilities[:, self._target]
        rest = np.delete(probabilities, self._target, axis=1).sum(1)
        tiny = np.finfo(np.float64).tiny
        return np.asarray(np.log(np.maximum(own, tiny)) - np.log(np.maximum(rest, tiny)))


# Places in the flat bytes that the network gets, and what is written there.
_Change = Sequence[tuple[NDArray[np.int64], NDArray[np.uint8]]]


def _of_squares(asking: _Asking, side: int) -> Layer:
    views = asking.views
    colours = [background_colour(view) for view in _each_view(asking.got, views)]
    coarse = _mean_falls(asking, _squares(_LARGE), views, colours, side)
    promise = {one: coarse[_pixels(one, side)].mean() for one in _squares(_SMALL)}
    best = sorted(promise, key=lambda one: -promise[one])[:_MOST_SMALL]
    small = [one for one in best if promise[one] > 0]
    fine = _mean_falls(asking, small, views, colours, side)
    # Where both sizes agree; a small one alone may change no vote of a forest or of neighbours.
    both = np.sqrt(np.maximum(coarse, 0) * np.maximum(fine, 0))
    found = both if both.any() else np.maximum(coarse, 0)
    return np.asarray(cv2.GaussianBlur(found, (0, 0), _SMOOTHING * side), np.float64)


def _mean_falls(
    asking: _Asking,
    squares: Sequence[Square],
    views: Sequence[InputView],
    colours: Sequence[Pixels],
    side: int,
) -> Layer:
    """Each pixel's mean fall over the squares that cover it, (side, side)."""
    falls = asking.falls([_covering(one, views, colours) for one in squares])
    total, count = np.zeros((side, side)), np.zeros((side, side))
    for square, fall in zip(squares, falls, strict=True):
        place = _pixels(square, side)
        total[place] += fall
        count[place] += 1
    return total / np.maximum(count, 1)


def _covering(square: Square, views: Sequence[InputView], colours: Sequence[Pixels]) -> _Change:
    change, start = [], 0
    for view, colour in zip(views, colours, strict=True):
        rows, columns = _pixels(square, view.side)
        grid = np.arange(view.side**2 * 3).reshape(view.side, view.side, 3)[rows, columns]
        change.append((start + grid.reshape(-1), np.tile(colour, grid.size // 3)))
        start += _size(view)
    return change


def _size(view: InputView) -> int:
    """Number of bytes of an input view."""
    return view.side**2 * 3


def _each_view(got: Pixels, views: Sequence[InputView]) -> Iterator[Pixels]:
    flat, start = got.reshape(-1), 0
    for view in views:
        yield flat[start : start + _size(view)].reshape(view.side, view.side, 3)
        start += _size(view)


def background_colour(image: Pixels) -> Pixels:
    """Mean colour (3,) of the brightest quarter of the pixels, the background of a smear.

    Args:
        image: RGB, (height, width, 3).
    """
    pixels = image.reshape(-1, 3)
    order = np.argsort(pixels.sum(1, dtype=np.int64), kind="stable")
    brightest = pixels[order[-max(len(pixels) // 4, 1) :]]
    return np.asarray(np.rint(brightest.mean(0)), np.uint8)


def _squares(side: float) -> list[Square]:
    """Squares that overlap by half."""
    starts = [number * side / 2 for number in range(round(2 / side) - 1)]
    return [(top, left, side) for top in starts for left in starts]


def _pixels(square: Square, side: int) -> tuple[slice, slice]:
    """Rows and columns of a square in an image of so many pixels a side."""
    *starts, length = square
    rows, columns = (slice(round(a * side), round((a + length) * side)) for a in starts)
    return rows, columns


def _of_cells(asking: _Asking, view: InputView) -> Layer:
    """Each cell's fall on its window; the image comes first, then crops, missing ones as zeros."""
    side, size = view.image_side, 3 * view.side**2
    image = asking.got[: 3 * side**2].reshape(side, side, 3)
    boxes = cell_boxes(image)
    places = [
        np.arange(3 * side**2 + n * size, 3 * side**2 + (n + 1) * size) for n in range(len(boxes))
    ]
    falls = asking.falls([[(rows, np.zeros(size, np.uint8))] for rows in places])
    found = np.zeros((side, side))
    for (top, left, own), fall in zip(boxes, falls, strict=True):
        found[top : top + own, left : left + own] += max(fall, 0) / own**2
    return np.asarray(cv2.GaussianBlur(found, (0, 0), _SMOOTHING * side / 2), np.float64)
