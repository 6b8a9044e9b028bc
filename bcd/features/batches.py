"""Runs an engine on views in full batches, each different view of an image once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.input_views import CELLS, MASKED, InputView
from bcd.data.input_views import Pixels
from bcd.features.engines import Engine
from bcd.models.cells import place_cells, unpack_cells


def batches_of(engine: Engine, view: InputView) -> Batches:
    """Batches of an input view, of one image each or of the cells of an image.

    Args:
        engine: Runs the prefix on images of the side that the view has.
        view: The input view.
    """
    if view.roi == MASKED:
        return MaskedBatches(engine, view.side)
    return CellBatches(engine, view) if view.roi == CELLS else Batches(engine, view.side)


class Batches:
    """Runs an engine on views in full batches, each different view of an image once.

    Args:
        engine: Runs the prefix.
        side: Of its images, in pixels.
    """

    def __init__(self, engine: Engine, side: int) -> None:
        self._engine = engine
        self._buffer = np.empty((engine.batch, side, side, 3), np.uint8)
        self._outputs: list[NDArray[np.float32]] = []
        self._places: list[int] = []  # output of each view
        self._filled = self._count = 0

    def add(self, pixels: Pixels, known: dict[bytes, int]) -> None:
        """Adds a view; `known` has the outputs of the image's views so far."""
        self._places.append(known.setdefault(pixels.tobytes(), self._count))
        if self._places[-1] < self._count:
            return
        self._buffer[self._filled] = pixels
        self._filled, self._count = self._filled + 1, self._count + 1
        if self._filled == len(self._buffer):
            self._run()

    def features(self) -> NDArray[np.float32]:
        """The features of all views that were added, in order."""
        if self._filled:
            self._run()
        return np.concatenate(self._outputs)[self._places]

    def _run(self) -> None:
        self._outputs.append(self._engine.forward(self._buffer[: self._filled]))
        self._filled = 0


def run_view(engine: Engine, view: InputView, images: Pixels) -> NDArray[np.float32]:
    """Runs an engine on one input view of images.

    Args:
        engine: Runs the prefix on images of the side that the view has.
        view: The input view.
        images: (N, side, side, 3); of cells (N, bytes).

    Returns:
        Features, (N, ...).
    """
    if view.roi not in (MASKED, CELLS):
        return engine.forward(images)
    batches = batches_of(engine, view)
    for packed in images:
        batches.add(packed, {})
    return batches.features()


class MaskedBatches(Batches):
    """The same for images with everything but white cells painted over; without any, 0."""

    def __init__(self, engine: Engine, side: int) -> None:
        super().__init__(engine, side)
        self._nothing: list[bool] = []

    def add(self, pixels: Pixels, known: dict[bytes, int]) -> None:
        """Adds a view."""
        super().add(pixels, known)
        self._nothing.append(bool((pixels == pixels[0, 0]).all()))

    def features(self) -> NDArray[np.float32]:
        """The features of all views that were added, in order."""
        found = super().features()
        found[self._nothing] = 0
        return found


class CellBatches(Batches):
    """The same for the cells of images, each of which is an image of its own to the engine.

    Args:
        engine: Runs the prefix.
        view: The input view, of cells.
    """

    def __init__(self, engine: Engine, view: InputView) -> None:
        super().__init__(engine, view.side)
        self._view = view
        self._present: list[NDArray[np.bool_]] = []

    def add(self, pixels: Pixels, known: dict[bytes, int]) -> None:
        """Adds the packed cells of a view."""
        crops, present = unpack_cells(pixels[None], self._view)
        self._present.append(present[0])
        for crop in crops[present]:
            super().add(crop, known)

    def features(self) -> NDArray[np.float32]:
        """The features of the cells of all views that were added, (views, cells, C + 1)."""
        # Without any cell, how many features one would have is known to the engine alone.
        some = bool(self._places)
        found = super().features() if some else self._engine.forward(self._buffer[:1])[:0]
        present = torch.from_numpy(np.stack(self._present))
        return place_cells(torch.from_numpy(found), present).numpy()
