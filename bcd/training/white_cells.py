"""Measures of the white cells in the test images, for a full report."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import cv2
import numpy as np

from bcd.console import track
from bcd.data.cells.measure import ImageMeasures, measure_cells, summarize_cells
from bcd.data.cells.segmentation import find_cells
from bcd.data.reading import fit, read_image
from bcd.reporting.document import Section, Table
from bcd.storage import write_csv, written_path
from bcd.training.build import Run

_SIDE = 224  # pixels to which images are resized, so that areas can be compared
_COLUMNS = {
    "count": "cells per image",
    "area": f"area, pixels of {_SIDE}",
    "nucleus_ratio": "nucleus over cell",
    "roundness": "roundness",
    "stain": "stain of the nucleus",
}


def cell_sections(run: Run) -> list[Section]:
    """Finds the white cells of all test images; writes `cells.csv` into the run folder.

    Returns:
        A section with the medians of each class.
    """
    tested, catalog = run.split.indices("test"), run.catalog

    def measure(index: int) -> ImageMeasures:
        pixels = fit(read_image(catalog.root / catalog.images[index].path), _SIDE)
        return summarize_cells(measure_cells(pixels, find_cells(pixels)))

    cv2.setNumThreads(0)  # the images already occupy all cores
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = track(pool.map(measure, tested), "White cells", len(tested))
        found = list(made)
    names = [catalog.classes[catalog.images[i].label] for i in tested]
    rows = [
        [written_path(catalog.images[i].path), name, *asdict(one).values()]
        for i, name, one in zip(tested, names, found, strict=True)
    ]
    header = ["path", "class", *asdict(found[0])]
    write_csv(run.folder / "cells.csv", header, rows)
    table = []
    for name in catalog.classes:
        own = [one for one, of in zip(found, names, strict=True) if of == name]
        table.append([name, str(len(own)), *(_quartiles(own, column) for column in _COLUMNS)])
    none = sum(one.count == 0 for one in found)
    text = (
        f"White cells of the {len(found)} test images, found by colour and shape without a "
        f"network{f'; in {none} none was found' * bool(none)}. Median over images, with quartiles "
        "in brackets; area, nucleus and roundness of an image are medians over its cells that lie "
        "wholly inside it. cells.csv has each image. The answers do not use these measures."
    )
    return [Section("White cells", [text, Table(["class", "images", *_COLUMNS.values()], table)])]


def _quartiles(measures: list[ImageMeasures], column: str) -> str:
    values = np.asarray([getattr(one, column) for one in measures], np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    digits = 0 if column in ("count", "area") else 2
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
