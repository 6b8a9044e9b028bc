"""Opens a whole-slide file and reads regions of it, in the process of a reader.

Files are read by tiffslide: tiled TIFF with or without a pyramid, and the vendors' formats that are
TIFF. Whatever the file claims is checked before anything of it is decoded.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.files import ImageError

Pixels = NDArray[np.uint8]

MOST_SIDE = 1 << 19  # pixels; a slide of 25 x 75 mm at 0.15 micrometres has 500,000
MOST_PIECE = 1 << 24  # pixels of a tile or strip of the file, which is decoded as a whole
MOST_REGION = 1 << 26  # pixels that are read at a time
_JPEGS = (6, 7, 33007, 34892)  # compressions whose YCbCr the decoder converts to RGB
_MPP = (0.01, 100.0)  # micrometres per pixel that a microscope can have


@dataclass(frozen=True)
class Level:
    """A level of the pyramid: its size in pixels, and how often level 0 is larger."""

    number: int
    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class SlideFacts:
    """What a file says about itself.

    Attributes:
        width: In pixels of level 0.
        height: In pixels of level 0.
        levels: Level 0 and those of the others that can be read tile by tile.
        mpp: Micrometres per pixel of level 0, horizontally and vertically; None if unknown.
        vendor: Of the scanner; empty if unknown.
        missing: Number of tiles of level 0 that are not, or not completely, in the file.
        pieces: Number of tiles of level 0.
    """

    width: int
    height: int
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    vendor: str
    missing: int
    pieces: int

    def to_plain(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SlideFacts:
        """What `to_plain` gave."""
        levels = tuple(Level(**one) for one in plain["levels"])
        mpp = None if plain["mpp"] is None else (plain["mpp"][0], plain["mpp"][1])
        return cls(**{**plain, "levels": levels, "mpp": mpp})

    def best_level(self, downsample: float) -> Level:
        """The smallest level that is not reduced more than `downsample` times."""
        return max(
            (level for level in self.levels if level.downsample <= max(downsample, 1.0) * 1.01),
            key=lambda level: level.downsample,
        )


class SlideFile:
    """An open whole-slide file.

    Args:
        path: The file.

    Attributes:
        facts: What it says about itself.

    Raises:
        ImageError: It is no slide, or one that cannot be read tile by tile.
    """

    def __init__(self, path: Path) -> None:
        from tiffslide import TiffSlide

        stream = _opened(path)
        self._bytes = os.fstat(stream.fileno()).st_size
        try:
            # Of a stream: tiffslide would take some paths for addresses of the internet.
            self._slide = TiffSlide(stream)
            self.facts = self._facts()
        except ImageError:
            raise
        except MemoryError as error:
            raise ImageError("takes too much memory to open") from error
        except Exception as error:  # parsers raise anything
            raise ImageError(f"not a slide that tiffslide can open ({_brief(error)})") from error

    def _facts(self) -> SlideFacts:
        properties = self._slide.properties
        sizes = self._slide.level_dimensions
        width, height = sizes[0]
        if max(width, height) > MOST_SIDE:
            raise ImageError(f"claims {width} x {height} pixels (at most {MOST_SIDE} a side)")
        if "tiffslide.series-composition" in properties:
            raise ImageError("consists of several scanned areas, which is not supported")
        self._pages = [self._page(number) for number in range(len(sizes))]
        _check_page(self._pages[0])
        levels = tuple(
            Level(number, *size, downsample)
            for number, (size, downsample) in enumerate(
                zip(sizes, self._slide.level_downsamples, strict=True)
            )
            if not number or _is_usable(self._pages[number], self._pages[0], size)
        )
        mpp = (properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y"))
        page = self._pages[0]
        return SlideFacts(
            width, height, levels, known_mpp(mpp), str(properties.get("tiffslide.vendor") or ""),
            int(_missing(page.dataoffsets, page.databytecounts, self._bytes).sum()),
            len(page.dataoffsets),
        )  # fmt: skip

    def _page(self, number: int) -> Any:
        series = self._slide.ts_tifffile.series[self._slide.properties["tiffslide.series-index"]]
        return series.levels[number].keyframe

    def read(self, level: int, region: tuple[int, int, int, int]) -> Pixels:
        """Reads a region.

        Args:
            level: Number of the level to read.
            region: Left, top, width and height in pixels of level 0, within the slide.

        Returns:
            RGB, at the level's resolution, (height, width, 3).

        Raises:
            ImageError: A part of it is not in the file or cannot be decoded.
        """
        downsample = self._slide.level_downsamples[level]
        left, top, *size = region
        width, height = (max(1, round(side / downsample)) for side in size)
        if width * height > MOST_REGION:
            raise ImageError(f"too large ({width} x {height} pixels at level {level})")
        try:
            self._check_pieces(level, int(left / downsample), int(top / downsample), width, height)
            read = self._slide.read_region(
                (left, top), level, (width, height), as_array=True, padding=False
            )
            return _rgb(np.asarray(read))
        except ImageError:
            raise
        except MemoryError as error:
            raise ImageError("cannot be decoded (takes too much memory)") from error
        except Exception as error:  # decoders raise anything
            raise ImageError(f"cannot be decoded ({_brief(error)})") from error

    def _check_pieces(self, level: int, left: int, top: int, width: int, height: int) -> None:
        """Refuses a region of which the file lacks a tile, which would be read as black."""
        page = self._pages[level]
        (down, across), (high, wide) = page.chunked[:2], page.chunks[:2]
        rows = range(top // high, min(down, _end(top, height, high)))
        columns = range(left // wide, min(across, _end(left, width, wide)))
        for row in rows:
            part = slice(row * across + columns.start, row * across + columns.stop)
            lists = page.dataoffsets[part], page.databytecounts[part]
            if _missing(*lists, self._bytes).any():
                raise ImageError("a part of it is not in the file")


def _missing(starts: Any, lengths: Any, available: int) -> NDArray[np.bool_]:
    """Which tiles are not completely in a file of so many bytes."""
    start, length = np.asarray(starts, np.float64), np.asarray(lengths, np.float64)
    return np.asarray((length <= 0) | (start <= 0) | (start + length > available))


def _end(start: int, length: int, step: int) -> int:
    return -(-(start + length) // step)


def _opened(path: Path) -> io.BufferedReader:
    """Opens a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("cannot be read (not a file)")
        return path.open("rb")
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error


def _check_page(page: Any) -> None:
    """Refuses level 0 if it cannot be read tile by tile, or its colours would be guessed."""
    if page.axes not in ("YXS", "YX") or str(page.dtype) != "uint8":
        raise ImageError(f"unsupported pixels ({page.axes}, {page.dtype}): 8-bit RGB or grey only")
    kind = page.photometric.name
    ycbcr = kind == "YCBCR" and int(page.compression) in _JPEGS
    plain = kind in ("RGB", "MINISBLACK") and int(page.compression) != 33003  # JPEG 2000 of YCbCr
    if page.axes == "YXS" and page.shape[2] not in (3, 4):
        raise ImageError(f"unsupported pixels ({page.shape[2]} channels)")
    if not (ycbcr or plain):
        raise ImageError(f"unsupported colours ({kind}, {page.compression.name})")
    if not _has_decoder(page.compression):
        name = getattr(page.compression, "name", page.compression)
        raise ImageError(f"unsupported compression ({name}): save it as a tiled TIFF with JPEG")
    height, width = page.chunks[:2]
    if height * width > MOST_PIECE:
        raise ImageError(
            f"its tiles have {width} x {height} pixels (at most {MOST_PIECE} pixels): save it as a "
            "tiled TIFF"
        )
    if math.prod(page.chunked) != len(page.dataoffsets):
        raise ImageError(
            f"lists {len(page.dataoffsets)} tiles, but its size needs {math.prod(page.chunked)}"
        )


def _has_decoder(compression: int) -> bool:
    from tifffile import TIFF

    try:
        return TIFF.DECOMPRESSORS[compression] is not None
    except KeyError:
        return False


def _is_usable(page: Any, first: Any, size: tuple[int, int]) -> bool:
    """Whether a smaller level has tiles like level 0; others are left out."""
    try:
        _check_page(page)
    except ImageError:
        return False
    same = (page.axes, page.shape[2:]) == (first.axes, first.shape[2:])
    return bool(same and page.shape[1::-1] == tuple(size))


def known_mpp(given: tuple[Any, Any]) -> tuple[float, float] | None:
    """Micrometres per pixel, horizontally and vertically, if a microscope can have them."""
    try:
        x, y = float(given[0]), float(given[1])
    except (TypeError, ValueError):
        return None
    return (x, y) if all(_MPP[0] <= value <= _MPP[1] for value in (x, y)) else None


def _rgb(read: NDArray[Any]) -> Pixels:
    """RGB of what was read; grey in three equal channels, transparent pixels on white."""
    if read.shape[2] == 1:
        return np.repeat(read, 3, axis=2)
    if read.shape[2] == 4:
        alpha = read[..., 3:].astype(np.float32) / 255
        return np.asarray(np.rint(read[..., :3] * alpha + 255 * (1 - alpha)), np.uint8)
    return np.asarray(read, np.uint8)


def shrunk(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resizes to a width and height, averaging where it shrinks."""
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
