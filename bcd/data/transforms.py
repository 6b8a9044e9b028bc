"""Transforms for `augment.transforms` that albumentations does not provide."""

from __future__ import annotations

from typing import Any

import albumentations
import numpy as np
from numpy.typing import NDArray

from bcd.data.stains import draw_jitter, restain


class HedJitter(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Changes the amount of each dye at random (`bcd.data.stains`).

    Args:
        strength: Amounts are multiplied by up to 1 ± strength and shifted by up to ± strength.
        p: Probability of applying it to a view.
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
        """RGB pixels (height, width, 3) with the amounts of dye changed."""
        return restain(img, scales, shifts)
