"""The work of `bcd cells`: finds and measures the white cells of many images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bcd.config.programs import CellsConfig
from bcd.console import printable, say, show_table
from bcd.data.cells.measure import CellMeasures, ImageMeasures, measure_cells, summarize_cells
from bcd.data.cells.outlines import draw_outlines, make_sheet
from bcd.data.cells.segmentation import SMALLEST_SIDE, Cells, find_cells
from bcd.data.files import ImageError
from bcd.data.frames import split_frame
from bcd.data.load import expand_inputs
from bcd.data.opening import PIXELS
from bcd.data.parallel import LargeImageError, SmallOnly, read_each, uses_processes
from bcd.data.pictures import common_folder, picture_place, write_png
from bcd.data.reading import read_image
from bcd.errors import BcdError, ConfigError
from bcd.storage import write_csv, written_path

IMAGE_COLUMNS = (
    "path", "count", "whole", "area", "nucleus_ratio", "roundness", "stain", "error",
)  # fmt: skip
CELL_COLUMNS = (
    "path", "cell", "left", "top", "right", "bottom", "area", "nucleus_ratio", "roundness",
    "stain", "at_border",
)  # fmt: skip

_SMALL_FILE = 4 << 20  # bytes; larger files are read in threads
_MOST_CELLS = 65535  # of a mask of 16 bits
_FIRST = 5  # files that could not be read and are named


@dataclass(frozen=True)
class Measured:
    """What was found in a file.

    Attributes:
        path: The file.
        cells: Its white cells.
        error: Why it could not be read; empty if it was.
    """

    path: Path
    cells: tuple[CellMeasures, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class CellsTable:
    """What was found in all files, in order.

    Attributes:
        files: One for each.
    """

    files: Sequence[Measured]

    @property
    def failed(self) -> list[Measured]:
        """Those that could not be read."""
        return [file for file in self.files if file.error]


def run_cells(cfg: CellsConfig) -> CellsTable:
    """Measures the white cells of the files of `input`, writes the tables and prints a summary.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: No such input, or a process ended unexpectedly.
    """
    inputs = [cfg.input] if isinstance(cfg.input, str) else cfg.input
    if not isinstance(inputs, list) or not all(isinstance(i, str) for i in inputs) or not inputs:
        raise ConfigError("input is missing: give input=<file, folder or glob>, or input=[a,b]")
    paths = expand_inputs(inputs)[: cfg.limit]
    folder = Path(cfg.run_dir)
    masks: list[Path | None] = [None] * len(paths)
    if cfg.masks:
        root = common_folder(paths)
        masks = [folder / "masks" / picture_place(path, root) for path in paths]
    table = CellsTable(list(_measure_all(paths, masks)))
    write_csv(folder / "cells.csv", IMAGE_COLUMNS, map(_image_row, table.files))
    rows = (_cell_row(file.path, cell) for file in table.files for cell in file.cells)
    write_csv(folder / "each_cell.csv", CELL_COLUMNS, rows)
    if cfg.shown:
        _write_sheet(folder / "outlines.png", table, cfg.shown)
    _tell(table, folder, cfg)
    return table


def _measure_all(paths: Sequence[Path], masks: Sequence[Path | None]) -> Iterator[Measured]:
    """Measures the files in order: small ones in processes if there are many, others in threads."""
    items = list(zip(paths, masks, strict=True))
    small = [item for item in items if _length(item[0]) <= _SMALL_FILE]
    found: dict[Path, Measured] = {}
    if uses_processes(len(small)):
        for measured in read_each(partial(_measure, only_small=True), small, True, "Finding cells"):
            if measured is not None:
                found[measured.path] = measured
    rest = [item for item in items if item[0] not in found]
    for measured in read_each(partial(_measure, only_small=False), rest, False, "Finding cells"):
        assert measured is not None
        found[measured.path] = measured
    return (found[path] for path in paths)


def _length(path: Path) -> int:
    try:
        return split_frame(path)[0].stat().st_size
    except OSError:
        return 0


def _measure(item: tuple[Path, Path | None], only_small: bool) -> Measured | None:
    """Measures a file and writes its mask; None for a large image, if unwanted."""
    path, mask = item
    try:
        image = read_image(path, SMALLEST_SIDE, SmallOnly() if only_small else PIXELS)
    except LargeImageError:
        return None
    except ImageError as error:
        return Measured(path, error=str(error))
    cells = find_cells(image)
    if mask is not None:
        _write_mask(mask, cells)
    return Measured(path, tuple(measure_cells(image, cells)))


def _write_mask(file: Path, cells: Cells) -> None:
    if cells.count > _MOST_CELLS:
        raise BcdError(f"{file}: {cells.count} cells do not fit into a mask; give masks=false")
    write_png(file, cells.labels.astype(np.uint16))


def _write_sheet(file: Path, table: CellsTable, most: int) -> None:
    """Draws evenly spaced images of those that could be read."""
    readable = [measured.path for measured in table.files if not measured.error]
    shown = min(most, len(readable))
    tiles = []
    for number in range(shown):
        with contextlib.suppress(ImageError):  # it was there a moment ago
            image = read_image(readable[number * len(readable) // shown], SMALLEST_SIDE)
            tiles.append(draw_outlines(image, find_cells(image)))
    if tiles:
        write_png(file, make_sheet(tiles))


def _image_row(file: Measured) -> list[object]:
    path = written_path(str(file.path))
    if file.error:
        return [path, *[""] * (len(IMAGE_COLUMNS) - 2), file.error]
    found = summarize_cells(file.cells)
    numbers = (found.area, found.nucleus_ratio, found.roundness, found.stain)
    return [path, found.count, found.whole, *map(_number, numbers), ""]


def _cell_row(path: Path, cell: CellMeasures) -> list[object]:
    numbers = (cell.nucleus_ratio, cell.roundness, cell.stain)
    lead = [written_path(str(path)), cell.number, *cell.box, cell.area]
    return [*lead, *map(_number, numbers), int(cell.at_border)]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _tell(table: CellsTable, folder: Path, cfg: CellsConfig) -> None:
    counts = [len(file.cells) for file in table.files if not file.error]
    found: ImageMeasures = summarize_cells([cell for file in table.files for cell in file.cells])
    share = found.nucleus_ratio
    rows = [
        ["images", str(len(counts))],
        ["without white cells", str(counts.count(0))],
        ["white cells", str(found.count)],
        ["an image, median", f"{np.median(counts):.0f}" if counts else "none"],
        [
            "nuclear area over that of the cell, median",
            "none" if math.isnan(share) else f"{share:.2f}",
        ],
        ["could not be read", str(len(table.failed))],
    ]
    show_table("White cells", ["measured", "value"], rows)
    for file in table.failed[:_FIRST]:
        say(f"could not be read: {printable(str(file.path))}: {file.error}")
    say(f"images: {folder / 'cells.csv'}")
    say(f"cells: {folder / 'each_cell.csv'}")
    if cfg.masks:
        say(f"masks: {folder / 'masks'}")
    if cfg.shown and counts:
        say(f"outlines: {folder / 'outlines.png'}")
