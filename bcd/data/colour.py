"""Conversion between RGB bytes and CIELAB."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# A channel that varies less than this, in CIELAB units, is noise and is not amplified further.
LEAST_STD = 1.0


def to_lab(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """CIELAB of RGB values from 0 to 255, (height, width, 3)."""
    scaled = rgb.astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), np.float32)


def from_lab(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB values, from 0 to 255 as far as they can be shown, of CIELAB (height, width, 3)."""
    return np.asarray(255 * np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)), np.float32)


def to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values rounded and clipped to 0 to 255."""
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
