"""`bcd cells`: tables, masks and outlines of the white cells of images."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.programs import CellsConfig
from bcd.data.cells.run import CellsTable, run_cells
from bcd.data.cells.segmentation import find_cells
from bcd.data.parallel import uses_processes
from bcd.data.reading import read_image
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import BcdError, ConfigError
from tests.helpers.harness import error_lines, verb

SEED = 74
COUNT = 6


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn smears in class folders, and a damaged file."""
    folder = tmp_path_factory.mktemp("smears")
    for number in range(COUNT):
        name = CLASS_NAMES[number % 4]
        (folder / name).mkdir(exist_ok=True)
        image = draw_smear(name, slide=number, index=number, seed=SEED, size=160)
        cv2.imwrite(str(folder / name / f"{number}.png"), image[:, :, ::-1])
    (folder / CLASS_NAMES[0] / "damaged.jpg").write_bytes(b"not an image")
    return folder


def measured(given: Path | list[str], run_dir: Path, **settings: Any) -> CellsTable:
    listed = given if isinstance(given, list) else str(given)
    return run_cells(with_defaults(CellsConfig, input=listed, run_dir=str(run_dir), **settings))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_command_line_writes_tables_masks_and_outlines(smears: Path, tmp_path: Path) -> None:
    done = verb("cells", f"input={smears}", "masks=true", "sheet=true", f"run_dir={tmp_path}")
    assert done.returncode == 3, done.stderr  # one file cannot be read
    assert "could not be read" in done.stderr and "damaged.jpg" in done.stderr
    images, cells = rows(tmp_path / "cells.csv"), rows(tmp_path / "each_cell.csv")
    assert [row["path"] for row in images] == [str(p) for p in sorted(smears.rglob("*.*"))]
    for row in images:
        path = Path(row["path"])
        mask = tmp_path / "masks" / path.relative_to(smears).with_name(f"{path.name}.png")
        assert bool(row["error"]) is (path.name == "damaged.jpg") is not mask.exists()
        own = [cell for cell in cells if cell["path"] == row["path"]]
        assert len(own) == int(row["count"] or 0)
        if not row["error"]:
            labels = np.asarray(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED))
            assert labels.dtype == np.uint16
            assert np.array_equal(labels, find_cells(read_image(path)).labels)
            areas = [(labels == int(cell["cell"])).sum() for cell in own]
            assert areas == [int(cell["area"]) for cell in own]
            whole = [int(cell["area"]) for cell in own if cell["at_border"] == "0"]
            assert len(whole) == int(row["whole"])
            assert not whole or float(row["area"]) == np.median(whole)
    sheet = np.asarray(cv2.imread(str(tmp_path / "outlines.png")))
    assert sheet.shape[1] > sheet.shape[0] > 400


def test_one_file_is_done_with_status_0_and_only_the_tables(smears: Path, tmp_path: Path) -> None:
    file = smears / CLASS_NAMES[1] / "1.png"
    done = verb("cells", f"input={file}", f"run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["cells.csv", "each_cell.csv"]


def test_masks_of_several_inputs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for folder, suffix in (("one", "png"), ("two", "png"), ("two", "jpg")):
        (tmp_path / folder).mkdir(exist_ok=True)
        image = draw_smear("Pro-B", slide=0, index=len(folder + suffix), seed=SEED, size=64)
        cv2.imwrite(str(tmp_path / folder / f"a.{suffix}"), image)
    given = [str(tmp_path / "one"), str(tmp_path / "two")]
    measured(given, tmp_path / "run", masks=True)
    masks = tmp_path / "run" / "masks"
    found = {path.relative_to(masks).as_posix() for path in masks.rglob("*.png")}
    assert found == {"one/a.png.png", "two/a.jpg.png", "two/a.png.png"}


def test_a_long_name_has_a_mask_too(tmp_path: Path) -> None:
    image = draw_smear("Pro-B", slide=0, index=0, size=96)
    file = tmp_path / "in" / f"{'x' * 240}.png"
    file.parent.mkdir()
    cv2.imwrite(str(file), image)
    measured(tmp_path / "in", tmp_path / "out", masks=True)
    (mask,) = (tmp_path / "out" / "masks").iterdir()
    assert len(mask.name) < 40


def test_a_number_of_images_on_the_sheet(smears: Path, tmp_path: Path) -> None:
    measured(smears, tmp_path, sheet=2)
    sheet = np.asarray(cv2.imread(str(tmp_path / "outlines.png")))
    assert sheet.shape[1] // sheet.shape[0] == 2


def test_many_images_are_measured_in_processes_as_they_are_in_threads(
    smears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = measured(smears, tmp_path / "threads")
    monkeypatch.setattr("bcd.data.parallel._MANY", 4)
    assert uses_processes(COUNT) or os.cpu_count() == 1
    processes = measured(smears, tmp_path / "processes", limit=None)
    assert processes.files == threads.files and len(processes.failed) == 1
    for name in ("cells.csv", "each_cell.csv"):
        contents = {(tmp_path / way / name).read_bytes() for way in ("threads", "processes")}
        assert len(contents) == 1


def test_an_image_without_white_cells_is_a_row_without_measures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((64, 64, 3), 250, np.uint8))
    measured(tmp_path / "blank.png", tmp_path / "run", masks=True, sheet=True)
    (row,) = rows(tmp_path / "run" / "cells.csv")
    assert row["count"] == "0" and row["area"] == row["error"] == ""
    assert rows(tmp_path / "run" / "each_cell.csv") == []


def test_a_small_image_is_an_error_of_its_row(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.full((20, 64, 3), 250, np.uint8))
    table = measured(tmp_path / "small.png", tmp_path / "run", sheet=True)
    (row,) = rows(tmp_path / "run" / "cells.csv")
    assert row["error"] == table.failed[0].error != ""
    assert not (tmp_path / "run" / "outlines.png").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sheet": -1}, "sheet=-1: must be 0 or more"),
        ({"limit": 0}, "limit=0: must be 1 or more"),
        ({"input": []}, "input is missing"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"input": "x", "run_dir": str(tmp_path), **settings}
    with pytest.raises(ConfigError, match=words):
        run_cells(with_defaults(CellsConfig, **given))


def test_no_image_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BcdError, match="no image there"):
        measured(tmp_path / "nothing", tmp_path / "run")
    done = verb("cells", f"run_dir={tmp_path}/run")
    assert done.returncode == 2
    assert len(error_lines(done)) == 1 and "input" in error_lines(done)[0]
    assert not (tmp_path / "run").exists()
