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


Vector = tuple[float, float, float]

_FAINT = 0.15  # optical density: pixels with less in every channel count as background
_EXTREME = 1.0  # percentile of the angle, and of the amount from above
_FEWEST_STAINED = 100  # pixels


def macenko_stains(
    pixels: NDArray[np.uint8], white: ArrayLike
) -> tuple[tuple[Vector, Vector], tuple[float, float]] | None:
    """Estimates two dyes and their amounts by the method of Macenko et al.

    "A method for normalizing histology slides for quantitative analysis", ISBI 2009:1107. They
    leave out pixels that are faint in any channel. Here those are used too that are faint in
    some channels only, because the dyes of a blood smear hardly absorb blue light.

    Args:
        pixels: RGB, (n, 3), of one or more images.
        white: RGB of the background.

    Returns:
        Optical density in R, G, B of one unit of each dye, of length 1, first that which absorbs
        more red light; and the 99 % quantile of each dye's amount. None if fewer than 100 pixels
        are stained, or all by the same dye.
    """
    density = density_of(pixels, white)
    stained = density[(density > _FAINT).any(axis=1)]
    if len(stained) < _FEWEST_STAINED:
        return None
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    along = stained @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    found: list[NDArray[np.float64]] = []
    for angle in np.percentile(angles, (_EXTREME, 100 - _EXTREME)):
        dye = plane @ (np.cos(angle), np.sin(angle))
        found.append(dye / np.linalg.norm(dye))
    dyes = np.stack(found if found[0][0] >= found[1][0] else found[::-1])
    amounts = np.percentile(stained @ np.linalg.pinv(dyes), 100 - _EXTREME, axis=0)
    if np.linalg.cond(dyes) > 1e3 or (amounts <= 0).any():
        return None
    first, second = (tuple(dye.tolist()) for dye in dyes)
    return (first, second), (float(amounts[0]), float(amounts[1]))


def density_of(pixels: NDArray[np.uint8], white: ArrayLike) -> NDArray[np.float64]:
    """Optical density of pixels (..., 3) against a background; 0 where they have its colour."""
    return np.asarray(np.log(np.asarray(white) + 1) - np.log(pixels.astype(np.float64) + 1))
