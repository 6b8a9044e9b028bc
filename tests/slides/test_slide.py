"""`bcd slide`: answers for the tiles of a drawn whole-slide file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import columns
from bcd.inference.checkpoint_model import CheckpointModel
from bcd.inference.predictor import Predictor
from bcd.slides.run import PLACE_COLUMNS, run_slide
from bcd.training.run import train
from bench.slide import Circle, Scene, score, write_slide
from tests.helpers.harness import SMALL, train_config, verb
from tests.helpers.memory import peak_growth
from tests.slides.making import MPP, asked, darkened

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("tiffslide")

Pixels = NDArray[np.uint8]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "tiles.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def places(found: list[dict[str, str]]) -> list[tuple[int, int, int, int]]:
    return [(int(row["x"]), int(row["y"]), int(row["width"]), int(row["height"])) for row in found]


@pytest.mark.usefixtures("stub")
def test_planted_regions_are_found(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, drawn = darkened(2000), []
    monkeypatch.setattr(
        "bcd.slides.heatmap.HeatMap.save", lambda self, file, label: drawn.append(self.draw())
    )
    tally = run_slide(asked(slides / "slide.tif", tmp_path, mpp=2.0))
    found = rows(tmp_path)
    inside, outside, auroc = score(scene, found)
    assert min(inside, outside) >= 5
    assert auroc == 1
    # On the map, planted tiles are red and others blue.
    (image,) = drawn
    for (x, y, width, height), row in zip(places(found), found, strict=True):
        centre = np.array([y + height / 2, x + width / 2]) * len(image) / scene.side
        red, _, blue = map(int, image[tuple(centre.astype(int))])
        share = scene.planted_share(x, y, width, height)
        if share in (0, 1) and row["refer"] == "false":
            assert (red > blue) is (share == 1)
    # Every tile is either answered or left out, and what is left out is mostly glass.
    facts = json.loads((tmp_path / "slide.json").read_text(encoding="utf-8"))
    assert tally.answered + tally.left_out == facts["tiles"]["in_grid"] == 16**2
    assert len(found) == tally.answered
    assert not tally.unanswered
    smear = np.pi * scene.smear.radius**2 / scene.side**2
    assert facts["tissue"]["share"] == pytest.approx(smear, abs=0.1)
    answered = set(places(found))
    for x, y in ((x, y) for x in range(0, 1873, 128) for y in range(0, 1873, 128)):
        if (x, y, 128, 128) not in answered:
            assert scene.block(x, y, 128)[..., 1].mean() > 220


@pytest.mark.usefixtures("stub")
def test_a_pyramid_changes_little_and_is_not_needed(slides: Path, tmp_path: Path) -> None:
    levels, found = [], []
    for name in ("slide", "flat"):
        run_slide(asked(slides / f"{name}.tif", tmp_path / name, mpp=2.0))
        facts = json.loads((tmp_path / name / "slide.json").read_text(encoding="utf-8"))
        levels.append(facts["tiles"]["level"])
        made = rows(tmp_path / name)
        found.append({(row["x"], row["y"]): float(row["p_Pro-B"]) for row in made})
    assert levels == [1, 0]
    pyramid, flat = found
    shared = pyramid.keys() & flat.keys()
    assert len(shared) >= 0.95 * len(pyramid.keys() | flat.keys())
    assert max(abs(pyramid[place] - flat[place]) for place in shared) < 0.02


@pytest.mark.usefixtures("stub")
def test_tiles_of_a_file_that_was_cut_off_are_rows_with_the_reason(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = run_slide(asked(slides / "cut off.tif", tmp_path, mpp=1.0))
    found = rows(tmp_path)
    unread = [row for row in found if row["error"]]
    assert 0 < tally.failed == len(unread) < len(found)
    assert {row["error"] for row in unread} == {"a part of it is not in the file"}
    assert all(row["refer"] == "true" and not row["prediction"] for row in unread)
    # Glass and smear cannot be told apart there, so that all of it is tried.
    lost = {place for place, row in zip(places(found), found, strict=True) if row["error"]}
    last = [x for x in range(0, 1937, 64) if (x, 1920, 64, 64) not in lost]
    assert not last
    assert "parts of the file are missing" in capsys.readouterr().err


@pytest.mark.usefixtures("stub")
def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    peaks = []
    for side in (1024, 3072):
        scene = Scene(side, 168, Circle(side / 2, side / 2, side), (), 0, darkened(300).fields)
        write_slide(tmp_path / f"{side}.tif", scene, MPP)
        cfg = asked(tmp_path / f"{side}.tif", tmp_path / str(side), mpp=4.0, batch_size=8)
        tally, peak = peak_growth(lambda cfg=cfg: run_slide(cfg))  # type: ignore[misc]
        assert tally.answered > 0.9 * (side / 256) ** 2
        peaks.append(peak)
    pixels = 3 * (3072**2 - 1024**2) / 2**20
    assert peaks[1] - peaks[0] < 0.2 * pixels


def test_a_tile_is_answered_like_an_image_of_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory, slides: Path, tmp_path: Path
) -> None:
    run = tmp_path_factory.mktemp("trained")
    train(train_config(run, *SMALL, "data.batch_size=4", f"data.root={run / 'images'}"))
    words = ["min_tissue=0.2", "overlap=0.5", "limit=30", "num_workers=1", f"run_dir={tmp_path}"]
    done = verb("slide", f"ckpt={run}", f"input={slides / 'flat.tif'}", *words)
    assert done.returncode == 0, done.stderr
    assert "no diagnosis of the slide is made" in done.stderr
    assert "give mpp=" in done.stderr
    found = rows(tmp_path)
    model = CheckpointModel.load(run, False, "cpu")
    assert list(found[0]) == [*PLACE_COLUMNS, *columns(model.facts.classes)]
    assert len(found) == 30
    level0 = tifffile.imread(slides / "flat.tif")
    images = []
    for number, (x, y, width, height) in enumerate(places(found)):
        assert x % 24 == y % 24 == 0  # half of 48 pixels
        images.append(tmp_path / f"{number}.png")
        Image.fromarray(level0[y : y + height, x : x + width]).save(images[-1])
    expected = Predictor(model).predict(images, num_workers=0)
    for row, other in zip(found, expected, strict=True):
        assert row["reason"] == other["reason"]
        for name in model.facts.classes:
            assert float(row[f"p_{name}"]) == pytest.approx(other[f"p_{name}"], abs=1e-5)
    facts = json.loads((tmp_path / "slide.json").read_text(encoding="utf-8"))
    assert facts["tiles"]["referred"] == sum(row["refer"] == "true" for row in found)
    assert facts["model"]["file"].endswith("best.ckpt")
    assert (tmp_path / "heatmap.png").stat().st_size > 0


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mpp": 40.0}, "the slide has only 2000 x 2000: give .*, 0.05 to 5 as a rule"),
        ({"mpp": 0.011}, "a tile has 1 x 1 pixels of level 0, fewer than 16 x 16: give"),
        ({"slide_mpp": 0.5}, "has no effect without mpp"),
        ({"model": "y"}, "one of both"),
        ({"verify": "key.pem"}, "needs model="),
        ({"overlap": 1.0}, "overlap=1.0"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(
    settings: dict[str, Any], message: str, slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_slide(asked(slides / "slide.tif", tmp_path, **settings))


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("name", ["no slide.tif", "folder", "https://example.org/a.svs"])
def test_what_is_not_a_slide_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "no slide.tif").write_bytes(b"II*\0" + bytes(range(256)))
    (tmp_path / "folder").mkdir()
    given = name if ":" in name else tmp_path / name
    with pytest.raises(BcdError) as caught:
        run_slide(asked(given, tmp_path / "run"))
    assert str(caught.value).startswith("input=")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
