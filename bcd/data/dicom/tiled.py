"""Files of whole-slide images: where each tile of a level is, without reading the others."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.dicom.elements import DEFLATED, nested
from bcd.data.dicom.frames import decode_tile, frame_bits, is_native
from bcd.data.dicom.header import is_dicom
from bcd.data.dicom.parsing import WHOLE_SLIDE, OtherKindError, Parsed, guarded, parse
from bcd.data.files import ImageError

_HEADS = (1 << 20, 1 << 26)  # bytes in which the header is looked for
_MOST_ELEMENTS = 2_000_000
_MOST_TILES = 1 << 22
_LONGEST = 1 << 26  # bytes of a tile
_PER_FRAME, _POSITION = 0x52009230, 0x0048021A
_COLUMN, _ROW = 0x0048021E, 0x0048021F
_ALSO = (
    "SeriesInstanceUID", "ImageType", "DimensionOrganizationType", "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows", "TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths",
    "SharedFunctionalGroupsSequence", "ConcatenationUID",
)  # fmt: skip
_ITEM = 0xE000

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TiledFile:
    """A level of a whole slide.

    Attributes:
        path: The file.
        parsed: Its header.
        size: Width and height in pixels.
        tile: Width and height of its tiles.
        frames: Number of the frame of each tile, (down, across); -1 for a tile that is not there.
        starts: Place of each frame in the file.
        ends: Place after it.
        mpp: Micrometres per pixel, horizontally and vertically; None if unknown.
        series: UID of its series.
    """

    path: Path
    parsed: Parsed
    size: tuple[int, int]
    tile: tuple[int, int]
    frames: Numbers
    starts: Numbers
    ends: Numbers
    mpp: tuple[float, float] | None
    series: str

    def read(self, row: int, column: int) -> NDArray[np.uint8] | None:
        """Decodes a tile; None if the slide has none there.

        Returns:
            RGB, (height, width, 3), also beyond the edges of the slide.

        Raises:
            ImageError: It is damaged, or not completely in the file.
        """
        index = int(self.frames[row, column])
        if index < 0:
            return None
        start, end = int(self.starts[index]), int(self.ends[index])
        if not self._there(start, end):
            raise ImageError("a part of it is not in the file")
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                data = stream.read(end - start)
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror})") from error
        if not is_native(self.parsed):
            with guarded():
                data = _without_items(data)
        return decode_tile(self.parsed, data)

    @property
    def missing(self) -> int:
        """Number of frames that are not, or not completely, in the file."""
        return int((~self._there(self.starts, self.ends)).sum())

    def _there(self, start: Any, end: Any) -> Any:
        length = end - start
        return (length > 0) & (length <= _LONGEST) & (end <= self.path.stat().st_size)


def open_tiled(path: Path) -> TiledFile | None:
    """Opens a file of a whole slide.

    Args:
        path: A regular file.

    Returns:
        None if it is no level of a slide but its label, an overview or a thumbnail.

    Raises:
        ImageError: It is no whole-slide image, or one that is not supported.
    """
    with path.open("rb") as stream:
        parsed = _parse_start(stream)
        dataset = parsed.dataset
        kinds = [str(word) for word in dataset.get("ImageType") or ()]
        if "VOLUME" not in kinds[2:3]:
            return None
        with guarded():
            size, tile = _sizes(parsed)
            _refuse_unsupported(parsed)
            frames = _grid(parsed, size, tile)
            starts, ends = _places(parsed, stream)
            series, mpp = str(dataset.get("SeriesInstanceUID") or ""), _mpp(dataset)
    return TiledFile(path, parsed, size, tile, frames, starts, ends, mpp, series)


def _parse_start(stream: IO[bytes]) -> Parsed:
    """Parses as much of a file as is needed."""
    for length in _HEADS:
        stream.seek(0)
        data = stream.read(length)
        if not is_dicom(data):
            raise ImageError("not a DICOM file (no prefix 'DICM')")
        try:
            return parse(data, (), (WHOLE_SLIDE,), _ALSO, _MOST_ELEMENTS)
        except OtherKindError:
            raise
        except ImageError:
            if len(data) < length or length == _HEADS[-1]:
                raise
    raise AssertionError


def _sizes(parsed: Parsed) -> tuple[tuple[int, int], tuple[int, int]]:
    dataset = parsed.dataset
    size = int(dataset.TotalPixelMatrixColumns), int(dataset.TotalPixelMatrixRows)
    tile = parsed.header.width, parsed.header.height
    if min(*size, *tile) < 1:
        raise ImageError("damaged DICOM file (size)")
    across, down = (-(-length // side) for length, side in zip(size, tile, strict=True))
    if across * down > _MOST_TILES or parsed.header.frames > _MOST_TILES:
        raise ImageError(f"has too many tiles (at most {_MOST_TILES})")
    return size, tile


def _refuse_unsupported(parsed: Parsed) -> None:
    dataset = parsed.dataset
    for keyword, what in (
        ("TotalPixelMatrixFocalPlanes", "focal planes"),
        ("NumberOfOpticalPaths", "optical paths"),
    ):
        if (count := int(dataset.get(keyword) or 1)) > 1:
            raise ImageError(f"has {count} {what}, of which only one is supported")
    if dataset.get("ConcatenationUID"):
        raise ImageError("a part of a concatenation, which is not supported")
    if parsed.file.syntax == DEFLATED or not parsed.file.encoding.little:
        raise ImageError("unsupported transfer syntax of a whole slide (deflated or big endian)")


def _grid(parsed: Parsed, size: tuple[int, int], tile: tuple[int, int]) -> Numbers:
    """The number of the frame of each tile."""
    across, down = (-(-length // side) for length, side in zip(size, tile, strict=True))
    count = parsed.header.frames
    per_frame = parsed.others.get(_PER_FRAME)
    if str(parsed.dataset.get("DimensionOrganizationType") or "") == "TILED_FULL":
        if count != across * down:
            raise ImageError(f"damaged DICOM file ({count} tiles, its size needs {across * down})")
        return np.arange(count, dtype=np.int64).reshape(down, across)
    if per_frame is None:
        raise ImageError("damaged DICOM file (the places of its tiles are missing)")
    columns, rows = (
        np.array(
            [
                struct.unpack("<l", value)[0] - 1
                for value in nested(parsed.file, per_frame, (_POSITION,), tag)
            ],
            np.int64,
        )
        for tag in (_COLUMN, _ROW)
    )
    if not len(columns) == len(rows) == count:
        raise ImageError("damaged DICOM file (the places of its tiles are missing)")
    if (columns % tile[0]).any() or (rows % tile[1]).any():
        raise ImageError("its tiles are not on a grid, which is not supported")
    rows, columns = rows // tile[1], columns // tile[0]
    if min(rows.min(), columns.min()) < 0 or rows.max() >= down or columns.max() >= across:
        raise ImageError("damaged DICOM file (a tile is outside of the slide)")
    found = np.full((down, across), -1, np.int64)
    found[rows, columns] = np.arange(count)
    if (found >= 0).sum() != count:
        raise ImageError("has several tiles in one place, which is not supported")
    return found


def _places(parsed: Parsed, stream: IO[bytes]) -> tuple[Numbers, Numbers]:
    """Places of the frames in the file; those of encoded ones include the headers of items."""
    count, value = parsed.header.frames, parsed.pixels.value
    if is_native(parsed):
        length = frame_bits(parsed) // 8
        starts = value + length * np.arange(count, dtype=np.int64)
        return starts, starts + length
    end = stream.seek(0, io.SEEK_END)
    stream.seek(value)
    table = _item(stream)
    if table is None or table > 4 * _MOST_TILES:
        raise ImageError("damaged DICOM file (its pixels are not encapsulated)")
    basic = np.frombuffer(stream.read(table), "<u4").astype(np.int64)
    first = value + 8 + table
    extended = parsed.dataset.get("ExtendedOffsetTable")
    if extended:
        starts = first + np.frombuffer(extended, "<u8").astype(np.int64)
        lengths = np.frombuffer(parsed.dataset.ExtendedOffsetTableLengths, "<u8").astype(np.int64)
        ends = starts + 8 + lengths
    elif len(basic):
        starts = first + basic
        ends = np.append(starts[1:], min(end, int(starts[-1]) + _LONGEST))
    else:
        starts, ends = _scanned(stream, first, count)
    if len(starts) != count or len(ends) != count:
        raise ImageError("damaged DICOM file (the places of its tiles are missing)")
    return starts, ends


def _item(stream: IO[bytes]) -> int | None:
    """Length of the item that begins here; None if there is none."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, number, length = struct.unpack("<HHL", head)
    return length if (group, number) == (0xFFFE, _ITEM) else None


def _scanned(stream: IO[bytes], place: int, count: int) -> tuple[Numbers, Numbers]:
    """Places of frames without a table, each of which has to be one fragment."""
    places = [place]
    while len(places) <= count:
        stream.seek(place)
        if (length := _item(stream)) is None:
            break
        place += 8 + length
        places.append(place)
    else:
        stream.seek(place)
        if _item(stream) is not None:
            raise ImageError("its tiles are in fragments without offsets, which is not supported")
    found = np.array(places, np.int64)
    return found[:-1], found[1:]


def _without_items(data: bytes) -> bytes:
    """An encoded frame of the fragments that hold it."""
    from pydicom.encaps import generate_fragments

    return b"".join(generate_fragments(data))


def _mpp(dataset: Any) -> tuple[float, float] | None:
    groups = dataset.get("SharedFunctionalGroupsSequence")
    measures = groups[0].get("PixelMeasuresSequence") if groups else None
    spacing = measures[0].get("PixelSpacing") if measures else None
    if spacing is None or len(spacing) != 2:
        return None
    return float(spacing[1]) * 1000, float(spacing[0]) * 1000
