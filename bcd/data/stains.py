"""Stains: decomposes an image into amounts of dyes, and changes these amounts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

# Optical density in red, green and blue (columns) of haematoxylin, eosin and DAB (rows): Ruifrok
# and Johnston, Anal Quant Cytol Histol 2001;23:291.
STAINS = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
# Natural logarithm; finite for black, 0 for white.
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


def restain(
    pixels: NDArray[np.uint8], scales: ArrayLike, shifts: ArrayLike = (0, 0, 0)
) -> NDArray[np.uint8]:
    """Changes the amounts of three dyes in an image: each times its scale, plus its shift.

    The amounts of haematoxylin, eosin and DAB come from the optical density by colour
    deconvolution (Ruifrok and Johnston 2001). Smears are stained with azure and eosin; the first
    two dyes are close to them, and the third accounts for the rest.

    Args:
        pixels: RGB, (height, width, 3).
        scales: Of each dye's amount, (3,).
        shifts: Added to each dye's amount everywhere, (3,); 1 is the density of a dye that
            transmits 1 / e of the light in all channels together.

    Returns:
        New pixels of the same shape.
    """
    # Converting to amounts, changing them and converting back is one affine map of the density.
    matrix = np.linalg.inv(STAINS) @ np.diag(scales) @ STAINS
    offset = np.asarray(shifts, dtype=float) @ STAINS
    density: Any = cv2.transform(cv2.LUT(pixels, _DENSITY), np.column_stack([matrix.T, offset]))
    light = cv2.exp(-density) * np.float32(256) - np.float32(1)
    return np.asarray(np.clip(np.rint(light), 0, 255), dtype=np.uint8)


def draw_jitter(
    strength: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draws scales within 1 ± strength and shifts within ± strength for `restain`.

    As HED jitter is used in histopathology (Tellez et al., Med Image Anal 2019;58:101544).
    """
    return 1 + rng.uniform(-strength, strength, 3), rng.uniform(-strength, strength, 3)
