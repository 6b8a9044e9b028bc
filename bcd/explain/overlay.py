"""Draws attributions over images, in colours that stains do not have."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# The largest share of the map's colour in a pixel, so that the cell below stays visible.
_OPACITY = 0.6
# Places are coloured by their share of this quantile of the map, as a single pixel may be far above
# all others.
_BRIGHTEST = 0.995
TOP = 0.05  # share of the pixels with the most evidence
_LINES = (((0, 0, 0), 3), ((255, 255, 255), 1))  # white alone is lost on a background


def draw_overlay(image: NDArray[np.uint8], attribution: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draws a map over an image.

    The colours are those of viridis, from blue over green to yellow: perceptually uniform,
    distinguishable with any colour blindness, and unlike purple and pink stains. Where the map is
    0 the image is unchanged. A white line, edged in black, surrounds the 5 % of the pixels with the
    most evidence.

    Args:
        image: RGB, (height, width, 3); not modified.
        attribution: A map of `Attribution`, (h, w), not negative; resized to the image.

    Returns:
        RGB of the shape of the image; a copy of it for a map that is 0 everywhere.
    """
    height, width = image.shape[:2]
    if not attribution.any():
        return image.copy()
    resized = np.asarray(cv2.resize(attribution, (width, height)), np.float32)
    share = np.clip(resized / max(np.quantile(resized, _BRIGHTEST), resized.max() / 100), 0, 1)
    coloured = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    opacity = (_OPACITY * share)[:, :, None]
    drawn = np.asarray(np.rint(image * (1 - opacity) + coloured * opacity), np.uint8)
    top = top_pixels(resized).astype(np.uint8)
    lines, _ = cv2.findContours(top, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for colour, width in _LINES:
        cv2.drawContours(drawn, lines, -1, colour, width)
    return drawn


def top_pixels(values: NDArray[np.float32], share: float = TOP) -> NDArray[np.bool_]:
    """The pixels with the most evidence: this share of them, but none without evidence.

    Args:
        values: A map (h, w).
        share: Of all pixels, rounded up; of ties the first are taken.

    Returns:
        A mask (h, w).
    """
    count = int(np.ceil(share * values.size))
    order = np.argsort(-values, axis=None, kind="stable")[:count]
    mask = np.zeros(values.size, dtype=bool)
    mask[order] = True
    return mask.reshape(values.shape) & (values > 0)
