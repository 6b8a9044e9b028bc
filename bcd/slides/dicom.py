"""Reads regions of a whole slide in DICOM: a file, or the files of one series in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bcd.data.dicom.parsing import OtherKindError
from bcd.data.dicom.tiled import TiledFile, open_tiled
from bcd.data.files import ImageError, begins_as_dicom
from bcd.data.frames import DICOM_SUFFIXES
from bcd.slides.opening import (
    MOST_PIECE,
    MOST_REGION,
    MOST_SIDE,
    Level,
    Pixels,
    SlideFacts,
    known_mpp,
)

_MOST_FILES = 1000  # of a folder
_WHITE = 255
_LEAST_MATCH = 0.02  # by which the proportions of levels may differ


def is_dicom_slide(path: Path) -> bool:
    """Whether a path is a folder, or a DICOM file by its name or its first bytes."""
    if path.is_dir() or path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        return begins_as_dicom(path)
    except ImageError:
        return False


class DicomSlide:
    """An open whole slide, with the interface of `bcd.slides.opening.SlideFile`.

    A tile that a sparse slide leaves out is white.

    Args:
        path: A file, or a folder with the files of a series; other files in it are left out.

    Attributes:
        facts: What it says about itself.

    Raises:
        ImageError: It is no slide, or one that cannot be read tile by tile.
    """

    def __init__(self, path: Path) -> None:
        files = _files(path)
        levels = [level for file in files if (level := _level(file, path)) is not None]
        if not levels:
            raise ImageError("has no whole slide, only labels, overviews or thumbnails")
        if len({level.series for level in levels}) > 1:
            raise ImageError("has whole slides of several series: give one of them")
        self._levels = sorted(levels, key=lambda level: -level.size[0])
        first = self._levels[0]
        width, height = first.size
        if max(width, height) > MOST_SIDE:
            raise ImageError(f"claims {width} x {height} pixels (at most {MOST_SIDE} a side)")
        _check(self._levels)
        self.facts = SlideFacts(
            width, height,
            tuple(
                Level(number, *level.size, width / level.size[0])
                for number, level in enumerate(self._levels)
            ),
            known_mpp(first.mpp or (None, None)), "DICOM",
            first.missing, len(first.starts),
        )  # fmt: skip

    def read(self, level: int, region: tuple[int, int, int, int]) -> Pixels:
        """Reads a region; see `SlideFile.read`."""
        of, downsample = self._levels[level], self.facts.levels[level].downsample
        left, top, *size = region
        width, height = (max(1, round(side / downsample)) for side in size)
        if width * height > MOST_REGION:
            raise ImageError(f"too large ({width} x {height} pixels at level {level})")
        left, top = int(left / downsample), int(top / downsample)
        right, bottom = min(left + width, of.size[0]), min(top + height, of.size[1])
        if left >= right or top >= bottom:
            raise ImageError("outside of the slide")
        found = np.full((bottom - top, right - left, 3), _WHITE, np.uint8)
        wide, high = of.tile
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                tile = of.read(row, column)
                if tile is not None:
                    _paste(found, tile, column * wide - left, row * high - top)
        return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        inside = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
    files = [file for file in inside[:_MOST_FILES] if begins_as_dicom(file)]
    if not files or len(inside) > _MOST_FILES:
        raise ImageError(f"a folder without DICOM files, or with more than {_MOST_FILES} files")
    return files


def _level(file: Path, given: Path) -> TiledFile | None:
    """The level in a file; None if there is none."""
    try:
        return open_tiled(file)
    except OtherKindError:
        if file == given:
            raise
        return None
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error


def _check(levels: list[TiledFile]) -> None:
    """Refuses levels that are not those of one pyramid, and tiles that are too large."""
    first = levels[0]
    for level, before in zip(levels, [None, *levels], strict=False):
        if level.tile[0] * level.tile[1] > MOST_PIECE:
            raise ImageError(f"its tiles have {level.tile[0]} x {level.tile[1]} pixels, too many")
        if before is not None and before.size == level.size:
            raise ImageError("has several files of one level, which is not supported")
        wide, high = (whole / own for whole, own in zip(first.size, level.size, strict=True))
        # A side of a small level is rounded to whole pixels.
        if abs(wide - high) > max(_LEAST_MATCH * wide, wide * 2 / min(level.size)):
            raise ImageError("its levels have other proportions")


def _paste(image: Pixels, tile: Pixels, x: int, y: int) -> None:
    """Copies a tile into an image, as far as it is inside."""
    height, width = image.shape[:2]
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(tile.shape[1], width - x), min(tile.shape[0], height - y)
    image[y + top : y + bottom, x + left : x + right] = tile[top:bottom, left:right]
