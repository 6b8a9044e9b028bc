"""A sample of images of a stream, to say what they look like."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bcd.config.environment import core_count
from bcd.data.quality.appearance import FEWEST, MOST, SIDE, Look, look_at
from bcd.data.reading import fit


class Sample:
    """Evenly spaced images of a stream whose length is not known, at most `MOST` of them.

    All up to `MOST`, then every second, then every fourth, and so on: the same for the same stream.
    """

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8] | None] = []
        self._step, self._seen = 1, 0

    @property
    def takes_next(self) -> bool:
        """Whether the next image is kept for the time being."""
        return self._seen % self._step == 0

    def add(self, pixels: NDArray[np.uint8] | None) -> None:
        """Takes the next image, (side, side, 3), or None where it cannot be measured."""
        if self.takes_next:
            self._kept.append(None if pixels is None else fit(pixels, SIDE).copy())
            if len(self._kept) > MOST:
                self._kept = self._kept[::2]
                self._step *= 2
        self._seen += 1

    def looks(self) -> list[Look]:
        """Measures the images that were kept; nothing if they are too few to be summarized."""
        kept = [pixels for pixels in self._kept if pixels is not None]
        if len(kept) < FEWEST:
            return []
        with ThreadPoolExecutor(core_count()) as pool:
            return list(pool.map(look_at, kept))
