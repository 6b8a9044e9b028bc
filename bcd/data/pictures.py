"""Writes a picture for each of several images, at the image's place below their common folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.storage import replacing, short_name


def common_folder(paths: Sequence[Path]) -> Path | None:
    """The lowest folder that all paths are in; None on several drives."""
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))  # noqa: PTH100
    except ValueError:
        return None


def picture_place(path: Path, root: Path | None) -> Path:
    """Relative path of an image's picture: its own below `root`, with `.png` appended.

    So `a.jpg` and `a.png` have different pictures.

    Args:
        path: Of the image.
        root: The common folder of all images; None: there is none, and only names are used.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (follows no links)
    place = absolute.relative_to(root) if root else Path(path.name)
    return place.with_name(f"{short_name(place.name)}.png")


def write_png(file: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Writes a PNG; the file is replaced atomically.

    Args:
        file: The file.
        pixels: RGB of 8 bits, (height, width, 3), or grey of 16 bits, (height, width).
    """
    _, code = cv2.imencode(".png", pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)
    with replacing(file) as stream:
        stream.write(code.tobytes())
