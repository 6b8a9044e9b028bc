"""Whole-slide images in DICOM, made of pixels: a file for each level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import encaps
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.helpers.dicom import make_dicom

Pixels = NDArray[np.uint8]
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def shrunk(pixels: Pixels, factor: int) -> Pixels:
    height, width = pixels.shape[:2]
    size = (-(-width // factor), -(-height // factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def write_series(
    folder: Path,
    pixels: Pixels,
    syntax: str = "jpeg 2000",
    *,
    mpp: tuple[float, float] = (0.5, 0.5),
    factors: Sequence[int] = (1, 4),
    tile: int = 256,
    **options: Any,
) -> list[Path]:
    """Writes the levels of a slide, and a label that must not be read.

    Args:
        folder: Where to.
        pixels: Level 0, RGB.
        syntax: Of the transfer syntaxes in `tests.helpers.dicom`.
        mpp: Micrometres per pixel of level 0, horizontally and vertically.
        factors: How often level 0 is larger than each level.
        tile: Width and height of tiles.
        options: See `write_level`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    files = []
    for number, factor in enumerate(factors):
        file = folder / f"{number}.dcm"
        level = shrunk(pixels, factor) if factor > 1 else pixels
        write_level(
            file, level, syntax, (mpp[0] * factor, mpp[1] * factor), tile, series=series, **options
        )
        files.append(file)
    write_level(
        folder / "label.dcm", pixels[:64, :64], "explicit", mpp, 64, series=series, kind="LABEL"
    )
    return files


def write_level(
    file: Path,
    pixels: Pixels,
    syntax: str,
    mpp: tuple[float, float],
    tile: int,
    *,
    series: str,
    kind: str = "VOLUME",
    sparse: bool = False,
    absent: Sequence[int] = (),
    table: str = "basic",
    change: Callable[[Dataset], object] | None = None,
) -> None:
    """Writes a level of a slide.

    Args:
        file: Where to.
        pixels: RGB.
        syntax: Its transfer syntax.
        mpp: Micrometres per pixel.
        tile: Width and height of its tiles; those at the edges are filled with black.
        series: UID of the series.
        kind: Third value of the image type.
        sparse: Whether tiles say where they are, in another order than usual.
        absent: Numbers of tiles that are left out.
        table: Of offsets: basic, extended or none.
        change: Changes the data set before it is written.
    """
    height, width = pixels.shape[:2]
    down, across = -(-height // tile), -(-width // tile)
    padded = np.zeros((down * tile, across * tile, 3), np.uint8)
    padded[:height, :width] = pixels
    places = [(row, column) for row in range(down) for column in range(across)]
    places = [place for number, place in enumerate(places) if number not in absent]
    if sparse:
        places = places[::-1]
    tiles = [padded[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] for r, c in places]

    def put(dataset: Dataset) -> None:
        dataset.SeriesInstanceUID = series
        dataset.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
        dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = width, height
        dataset.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
        dataset.NumberOfFrames = len(tiles)
        measures, group = Dataset(), Dataset()
        measures.PixelSpacing = [mpp[1] / 1000, mpp[0] / 1000]  # between rows comes first
        group.PixelMeasuresSequence = [measures]
        dataset.SharedFunctionalGroupsSequence = [group]
        if sparse:
            dataset.PerFrameFunctionalGroupsSequence = [_frame(r, c, tile) for r, c in places]
            # One sequence has a stated length, the other has not.
            dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
        if table != "basic":
            frames = [
                bytes(one)
                for one in encaps.generate_frames(dataset.PixelData, number_of_frames=len(tiles))
            ]
            if table == "none":
                dataset.PixelData = encaps.encapsulate(frames, has_bot=False)
            else:
                data, offsets, lengths = encaps.encapsulate_extended(frames)
                dataset.PixelData = data
                dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
        if change is not None:
            change(dataset)

    file.write_bytes(make_dicom(np.stack(tiles), syntax, kind=WHOLE_SLIDE, change=put).data)


def _frame(row: int, column: int, tile: int) -> Dataset:
    place, frame = Dataset(), Dataset()
    place.ColumnPositionInTotalImagePixelMatrix = column * tile + 1
    place.RowPositionInTotalImagePixelMatrix = row * tile + 1
    frame.PlanePositionSlideSequence = [place]
    return frame
