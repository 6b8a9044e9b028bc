"""Draws a whole slide with planted regions, looks for them with `bcd slide`, and measures it.

The slide is glass with a round smear of drawn fields. Outside the planted regions its white cells
are benign, inside they are those of one malignant class, and the stain is the same everywhere. It
needs the extra `slides`.

python -m bench.slide ckpt=outputs/demo/<run>
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bcd.data.synthetic.drawing import FIELD
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bench.measure import machine, run_timed

Pixels = NDArray[np.uint8]

MPP = 0.25  # micrometres per pixel, as of a 40x objective
TILE = 256  # side of the file's tiles
SHRINK = 4  # of each level of the pyramid against the one before
GLASS = (243, 241, 238)


@dataclass(frozen=True)
class Circle:
    """A region of a slide: its centre and radius in pixels of level 0."""

    x: float
    y: float
    radius: float

    def contains(self, x: float, y: float) -> bool:
        """Whether a point is in the region."""
        return (x - self.x) ** 2 + (y - self.y) ** 2 <= self.radius**2


@dataclass(frozen=True)
class Scene:
    """What a drawn slide shows.

    Attributes:
        side: Width and height in pixels of level 0.
        field: Width and height in pixels of the drawn fields that the smear is made of.
        smear: Where the smear is; glass elsewhere.
        planted: Where the white cells are malignant.
        shift: How far the grid of fields is shifted against level 0, so that no tile is one field.
        fields: Drawn fields, benign ones first, (2, n, field, field, 3); they are used repeatedly.
    """

    side: int
    field: int
    smear: Circle
    planted: tuple[Circle, ...]
    shift: int
    fields: Pixels

    def block(self, x: int, y: int, side: int) -> Pixels:
        """Draws a square of level 0, (side, side, 3); glass also outside the slide."""
        drawn = np.empty((side, side, 3), np.uint8)
        drawn[:] = GLASS
        for column, row in self._touched(x, y, side, side):
            found = self._field(column, row)
            if found is None:
                continue
            left, top = (k * self.field - self.shift for k in (column, row))
            rows = slice(max(top, y), min(top + self.field, y + side))
            columns = slice(max(left, x), min(left + self.field, x + side))
            part = found[rows.start - top : rows.stop - top, columns.start - left :]
            drawn[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = part[
                :, : columns.stop - columns.start
            ]
        return drawn

    def planted_share(self, x: int, y: int, width: int, height: int) -> float:
        """Share of the drawn fields in a rectangle of level 0 that are planted."""
        touched = list(self._touched(x, y, width, height))
        return sum(self._is_planted(*one) for one in touched) / len(touched)

    def _touched(self, x: int, y: int, width: int, height: int) -> Iterator[tuple[int, int]]:
        """Column and row of the fields that a rectangle touches."""
        columns, rows = (
            range(
                (start + self.shift) // self.field, -(-(start + length + self.shift) // self.field)
            )
            for start, length in ((x, width), (y, height))
        )
        return itertools.product(columns, rows)

    def _centre(self, column: int, row: int) -> tuple[float, float]:
        x, y = ((k + 0.5) * self.field - self.shift for k in (column, row))
        return x, y

    def _field(self, column: int, row: int) -> Pixels | None:
        """Pixels of a field; None where there is glass."""
        if not self.smear.contains(*self._centre(column, row)):
            return None
        rng = np.random.default_rng([column, row])
        kind = self.fields[int(self._is_planted(column, row))]
        chosen: Pixels = np.rot90(kind[rng.integers(len(kind))], int(rng.integers(4)))
        return chosen[:, ::-1] if rng.random() < 0.5 else chosen

    def _is_planted(self, column: int, row: int) -> bool:
        centre = self._centre(column, row)
        return self.smear.contains(*centre) and any(c.contains(*centre) for c in self.planted)


def draw_scene(
    side: int, planted: str = CLASS_NAMES[3], pool: int = 48, seed: int = 0, mpp: float = MPP
) -> Scene:
    """Draws the fields of a slide that is `side` pixels wide and high.

    Args:
        side: In pixels of level 0.
        planted: Class of the white cells in the planted regions.
        pool: Number of different fields of each class.
        seed: Of the drawn fields.
        mpp: Micrometres per pixel of level 0.
    """
    field = round(FIELD / mpp)
    fields = [
        [draw_smear(name, slide=0, index=k, seed=seed, size=field) for k in range(pool)]
        for name in (CLASS_NAMES[0], planted)
    ]
    regions = ((0.32, 0.36, 0.10), (0.66, 0.60, 0.13), (0.42, 0.72, 0.07))
    circles = tuple(Circle(x * side, y * side, r * side) for x, y, r in regions)
    smear = Circle(side / 2, side / 2, 0.42 * side)
    return Scene(side, field, smear, circles, round(0.3 * field), np.asarray(fields))


def write_slide(file: Path, scene: Scene, mpp: float = MPP, levels: int | None = None) -> None:
    """Writes a slide as a tiled TIFF with a pyramid, a tile at a time.

    Args:
        file: To write.
        scene: What it shows.
        mpp: Micrometres per pixel of level 0, as the file says.
        levels: Number of levels; None for as many as are larger than two tiles, 1 for no pyramid.
    """
    import tifffile

    sides = [scene.side]
    while (sides[-1] > 2 * TILE) if levels is None else (len(sides) < levels):
        sides.append(sides[-1] // SHRINK)
    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        for level, side in enumerate(sides):
            shrink = SHRINK**level
            writer.write(
                _tiles(scene, side, shrink),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90},
                resolution=(1e4 / (mpp * shrink),) * 2,
                resolutionunit="CENTIMETER",
                subifds=len(sides) - 1 if level == 0 else None,
                subfiletype=int(level > 0),
                metadata=None,
            )


def _tiles(scene: Scene, side: int, shrink: int) -> Iterator[Pixels]:
    """The tiles of a level, row by row."""
    step = TILE * shrink
    for y in range(0, side * shrink, step):
        for x in range(0, side * shrink, step):
            whole = scene.block(x, y, step)
            yield np.asarray(
                cv2.resize(whole, (TILE, TILE), interpolation=cv2.INTER_AREA), np.uint8
            )


@dataclass(frozen=True)
class Found:
    """What `bcd slide` found on a drawn slide.

    Attributes:
        side: Of the slide, pixels.
        tiles: Number of tiles with an answer.
        seconds: Of the whole command.
        processor_seconds: Of all its processes.
        memory: Peak of the largest process, MB.
        inside: Number of tiles that show planted fields only.
        outside: Number of tiles that show none.
        auroc: Of the probability of malignancy, between these.
        referred: Share of the answered tiles that are referred.
    """

    side: int
    tiles: int
    seconds: float
    processor_seconds: float
    memory: float
    inside: int
    outside: int
    auroc: float
    referred: float


def score(scene: Scene, rows: Sequence[dict[str, str]]) -> tuple[int, int, float]:
    """Compares the rows of `tiles.csv` with the planted regions.

    Returns:
        Number of tiles inside and outside, and the AUROC of the probability of malignancy.
    """
    from sklearn.metrics import roc_auc_score

    shares = [
        scene.planted_share(*(int(row[key]) for key in ("x", "y", "width", "height")))
        for row in rows
    ]
    values = [1 - float(row[f"p_{CLASS_NAMES[0]}"]) for row in rows]
    kept = [
        (share == 1, value) for share, value in zip(shares, values, strict=True) if share in (0, 1)
    ]
    truth, found = zip(*kept, strict=True)
    return sum(truth), len(truth) - sum(truth), float(roc_auc_score(truth, found))


def _draw(side: int, file: Path) -> None:
    started = time.perf_counter()
    write_slide(file, draw_scene(side))
    print(f"{file}: drawn in {time.perf_counter() - started:.0f} s", flush=True)


def _children() -> float:
    """Processor time of the processes that have ended, seconds."""
    times = os.times()
    return times.children_user + times.children_system


def measure(model: str, side: int, work: Path, mpp: float) -> Found:
    """Draws a slide, runs `bcd slide` on it, and compares.

    Args:
        model: `ckpt=…` or `model=…`.
        side: Of the slide, pixels.
        work: Folder for the slide and the results; an existing slide is used.
        mpp: Micrometres per pixel of the network's images.
    """
    file = work / f"slide{side}.tif"
    if not file.exists():
        # In a process of its own: the system counts this one's memory as the command's, too.
        drawing = get_context("spawn").Process(target=_draw, args=(side, file))
        drawing.start()
        drawing.join()
    folder = work / f"found{side}"
    words = (model, f"input={file}", f"mpp={mpp}", f"run_dir={folder}")
    before = _children()
    timed = run_timed([sys.executable, "-m", "bcd", "slide", *words], work / f"slide{side}.log")
    with (folder / "tiles.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    spent = _children() - before
    inside, outside, auroc = score(draw_scene(side), rows)
    referred = sum(row["refer"] == "true" for row in rows) / len(rows)
    return Found(
        side, len(rows), timed.seconds, spent, timed.memory, inside, outside, auroc, referred
    )


def main() -> None:
    """Measures slides of several sizes and prints a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.slide", description=__doc__)
    parser.add_argument("model", help="ckpt=<run> of drawn smears (experiment=demo)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "slides")
    parser.add_argument("--sides", default="5000,20000", help="of the slides, pixels")
    parser.add_argument("--input-size", type=int, default=128, help="of the network")
    asked = parser.parse_args()
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    mpp = FIELD / asked.input_size
    found = [measure(asked.model, int(side), work, mpp) for side in asked.sides.split(",")]
    print(machine())
    for one in found:
        print(json.dumps(vars(one)), flush=True)


if __name__ == "__main__":
    main()
