"""Transforms for `augment.transforms` that albumentations does not have."""

from __future__ import annotations

from typing import Any

import albumentations
import numpy as np
from numpy.typing import NDArray

from bcd.data.stains import draw_jitter, restain


class HedJitter(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Changes how much of each dye there is, at random (`bcd.data.stains`).

    Args:
        strength: Amounts are multiplied by 1 ± strength and get ± strength added.
        p: Share of views.
    """

    def __init__(self, strength: float = 0.1, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.strength = strength

    def get_params(self) -> dict[str, Any]:
        """Draws the changes of an image."""
        scales, shifts = draw_jitter(self.strength, self.random_generator)
        return {"scales": scales, "shifts": shifts}

    def apply(
        self,
        img: NDArray[np.uint8],
        scales: NDArray[np.float64],
        shifts: NDArray[np.float64],
        **_: Any,
    ) -> NDArray[np.uint8]:
        """Pixels (height, width, 3), RGB, with other amounts of dye."""
        return restain(img, scales, shifts)
