"""The work of `bcd slide`: answers for the tiles of a whole-slide file."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcd.config.slide import SlideConfig
from bcd.console import say, track
from bcd.data.items import Answer
from bcd.data.quality.appearance import summarize
from bcd.errors import BcdError
from bcd.evaluation.predictions import Prediction, columns, prediction_cells
from bcd.inference.predictor import Predictor, load_model
from bcd.inference.site import tell_differences
from bcd.run_folder import check_no_run, find_checkpoint
from bcd.slides.heatmap import HeatMap
from bcd.slides.opening import Level, SlideFacts
from bcd.slides.readers import SlideReaders
from bcd.slides.serving import Request
from bcd.slides.tally import Tally
from bcd.slides.telling import NOTE, tell_results, tell_slide
from bcd.slides.tiles import Grid, Tile, tile_size
from bcd.slides.tissue import find_tissue, read_overview
from bcd.storage import GrowingFile, csv_line, file_sha256, typed_path, write_text

PLACE_COLUMNS = ("x", "y", "width", "height", "tissue")


@dataclass(frozen=True)
class _Plan:
    """How a slide is read.

    Attributes:
        side: Width and height in pixels of the network's largest image.
        size: Width and height of a tile in pixels of level 0.
        level: From which tiles are read.
        grid: All tiles.
    """

    side: int
    size: tuple[int, int]
    level: Level
    grid: Grid

    @classmethod
    def of(cls, cfg: SlideConfig, facts: SlideFacts, side: int) -> _Plan:
        size = tile_size(facts, side, cfg.mpp, cfg.slide_mpp)
        level = facts.best_level(min(size) / side)
        return cls(side, size, level, Grid(facts, size, cfg.overlap))


def run_slide(cfg: SlideConfig) -> Tally:
    """Answers for the tiles of a slide and writes `tiles.csv`, `heatmap.png` and `slide.json`.

    Args:
        cfg: Checked configuration.

    Returns:
        Counts of the tiles.

    Raises:
        BcdError: No model, no slide that can be read, or tiles that do not fit on it.
    """
    path, folder = typed_path(cfg.input), Path(cfg.run_dir)
    check_no_run(folder)
    predictor = Predictor(
        load_model(
            ckpt=cfg.ckpt,
            model=cfg.model,
            uncalibrated=cfg.uncalibrated,
            device=cfg.device,
            verify=cfg.verify,
        )
    )
    benign = predictor.facts.benign
    with SlideReaders(path, predictor.wanted, cfg.num_workers) as readers:
        side = max(view.image_side for view in predictor.wanted.inputs)
        plan = _Plan.of(cfg, readers.facts, side)
        tell_slide(cfg, readers.facts, side, plan.size, len(plan.grid))
        overview = read_overview(readers, plan.size)
        mask = find_tissue(overview, plan.size)
        tally, heat = Tally(predictor.classes, benign), HeatMap(overview)

        def take(tile: Tile, prediction: Prediction) -> None:
            tally.add(f"{tile.x},{tile.y}", prediction)
            value = None if prediction.best is None else tally.shown(prediction)
            heat.add(tile, value, bool(prediction.refer))

        chosen = _chosen(plan.grid.tiles(mask), cfg.min_tissue, tally)
        tiles = itertools.islice(chosen, cfg.limit)
        rows = _Reading(path, readers, plan.level, tiles)
        _write_rows(cfg, predictor, rows, tally, plan, take)
        limited = next(chosen, None) is not None
    shown = f"probability of {'the predicted class' if benign is None else 'malignancy'}"
    with _writing(folder):
        heat.save(folder / "heatmap.png", shown)
    differences = tell_differences(
        predictor.facts, summarize(predictor.looks), None, "the tiles of this slide"
    )
    found: dict[str, Any] = {
        "note": NOTE,
        "slide": {"file": str(path), "bytes": _length(path), **readers.facts.to_plain()},
        "tiles": {
            "width": plan.size[0], "height": plan.size[1], "level": plan.level.number,
            "overlap": cfg.overlap, "mpp": cfg.mpp, "slide_mpp": cfg.slide_mpp,
            "in_grid": len(plan.grid), "min_tissue": cfg.min_tissue, "limit": cfg.limit,
            **tally.to_plain(),
        },
        "tissue": {"share": mask.share and round(mask.share, 6), "threshold": mask.threshold},
        "shown": shown,
        "differences_from_training": differences,
        "model": {**_model(cfg), "card_sha256": predictor.facts.card_sha256},
    }  # fmt: skip
    with _writing(folder):
        write_text(folder / "slide.json", json.dumps(found, indent=1) + "\n")
    tell_results(cfg, tally, predictor.facts.calibrated, mask.share, limited)
    return tally


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says which file of the folder could not be written."""
    try:
        yield
    except OSError as error:
        raise BcdError(
            f"run_dir={folder}: {Path(error.filename or folder).name} cannot be written "
            f"({error.strerror or error}); free some space or change the permissions there, or "
            "give another run_dir"
        ) from error


def _length(path: Path) -> int:
    """Number of bytes of a file, or of all files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _model(cfg: SlideConfig) -> dict[str, str]:
    """Where the model is, and the sha256 of its file."""
    file = find_checkpoint(cfg.ckpt) if cfg.ckpt is not None else typed_path(str(cfg.model))
    return {"file": str(file), "sha256": file_sha256(file)}


def _chosen(tiles: Iterator[Tile], least: float, tally: Tally) -> Iterator[Tile]:
    """The tiles with enough tissue; those of which that is unknown are read to find out why."""
    for tile in tiles:
        if tile.tissue is None or tile.tissue >= least:
            yield tile
        else:
            tally.left_out += 1


class _Reading:
    """Tiles on their way through the readers and the model.

    Args:
        path: The slide.
        readers: Of the slide.
        level: From which tiles are read.
        tiles: To read.
    """

    def __init__(
        self, path: Path, readers: SlideReaders, level: Level, tiles: Iterator[Tile]
    ) -> None:
        self._name, self._readers = str(path), readers
        self._level, self._tiles = level, tiles
        self._waiting: deque[Tile] = deque()

    def read(self) -> Iterator[tuple[str, Answer]]:
        """Yields the name of the slide and what was read of each tile."""
        return ((self._name, answer) for answer in self._readers.read(self._requests()))

    def _requests(self) -> Iterator[Request]:
        for tile in self._tiles:
            self._waiting.append(tile)
            yield Request(self._level.number, tile.region)

    def next(self) -> Tile:
        """The tile of the next prediction."""
        return self._waiting.popleft()


def _write_rows(
    cfg: SlideConfig,
    predictor: Predictor,
    reading: _Reading,
    tally: Tally,
    plan: _Plan,
    take: Callable[[Tile, Prediction], None],
) -> None:
    """Answers for tiles, writes a row for each when it is done, and has it taken."""
    folder, seen = Path(cfg.run_dir), 0
    with _writing(folder):
        rows = GrowingFile(folder / "tiles.csv")
    try:
        with _writing(folder):
            rows.append(csv_line([*PLACE_COLUMNS, *columns(predictor.classes)]))
        answers = predictor.answers_to(reading.read(), cfg.batch_size)
        # The bar counts tiles of the grid, as it is not known in advance how many show tissue.
        weighed = _weighed(answers, tally)
        for batch, _ in track(weighed, "Tiles", len(plan.grid), lambda item: item[1]):
            done = [(reading.next(), prediction) for prediction, _ in batch]
            text = "".join(csv_line(_cells(*one, predictor.classes)) for one in done)
            with _writing(folder):
                rows.append(text)
            seen += len(done)
            for one in done:
                take(*one)
        # Without slide.json, files of an earlier run and of this one are not taken for results.
        with _writing(folder):
            for name in ("slide.json", "heatmap.png"):
                (folder / name).unlink(missing_ok=True)
            rows.finish()
    except BaseException:
        if seen:
            rows.close()
            say(f"the first {seen} rows: {rows.part}")
        else:
            rows.discard()
        raise


_Batch = list[tuple[Prediction, Answer]]


def _weighed(batches: Iterator[_Batch], tally: Tally) -> Iterator[tuple[_Batch, int]]:
    """Each batch with the number of tiles of the grid since the last one."""
    left_out = 0
    for batch in batches:
        yield batch, len(batch) + tally.left_out - left_out
        left_out = tally.left_out


def _cells(tile: Tile, prediction: Prediction, classes: Sequence[str]) -> list[str]:
    tissue = "" if tile.tissue is None else f"{tile.tissue:.4f}"
    return [*map(str, tile.region), tissue, *prediction_cells(prediction, classes)]
