"""Whole slides in DICOM are read tile by tile as other slides are."""

from __future__ import annotations

import csv
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from bcd.config.input_views import InputView
from bcd.data.files import ImageError
from bcd.data.items import Wanted
from bcd.errors import BcdError
from bcd.slides.dicom import DicomSlide
from bcd.slides.readers import SlideReaders
from bcd.slides.run import run_slide
from bcd.slides.serving import Request, open_slide
from bench.slide import score
from tests.helpers.dicom import identified, make_dicom
from tests.helpers.dicom_slides import shrunk, write_level, write_series
from tests.slides.making import MPP, asked, darkened

SIDE = 300
PIXELS = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE + 40, 3)).astype(np.uint8)
PIXELS[::2] //= 2


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "rle", "jpeg 2000", "jpeg-ls"])
@pytest.mark.parametrize("sparse", [False, True])
def test_regions_are_those_of_the_pixels(syntax: str, sparse: bool, tmp_path: Path) -> None:
    write_series(tmp_path, PIXELS, syntax, tile=64, factors=(1, 2), sparse=sparse, mpp=(0.5, 1.0))
    slide = open_slide(tmp_path)
    facts = slide.facts
    assert (facts.width, facts.height, facts.missing) == (SIDE + 40, SIDE, 0)
    assert facts.pieces == math.ceil((SIDE + 40) / 64) * math.ceil(SIDE / 64)
    assert facts.mpp == pytest.approx((0.5, 1.0))
    for left, top, width, height in ((0, 0, 340, 300), (63, 1, 2, 130), (256, 256, 84, 44)):
        found = slide.read(0, (left, top, width, height))
        np.testing.assert_array_equal(found, PIXELS[top : top + height, left : left + width])
    half = shrunk(PIXELS, 2)
    np.testing.assert_array_equal(slide.read(1, (128, 64, 100, 80)), half[32:72, 64:114])
    assert [level.downsample for level in facts.levels] == [1, 2]


@pytest.mark.parametrize("table", ["extended", "none"])
def test_tiles_are_found_by_any_table_of_offsets(table: str, tmp_path: Path) -> None:
    (file, *_) = write_series(tmp_path, PIXELS, tile=64, factors=(1,), table=table)
    slide = DicomSlide(file)
    np.testing.assert_array_equal(slide.read(0, (60, 60, 70, 70)), PIXELS[60:130, 60:130])


def test_tiles_in_fragments_need_a_table_of_offsets(tmp_path: Path) -> None:
    (file, *_) = write_series(tmp_path, PIXELS, tile=64, factors=(1,), table="none")
    data, item = file.read_bytes(), b"\xfe\xff\x00\xe0"
    place = data.index(item, data.index(item + bytes(4)) + 8)  # that of the first tile
    (length,) = struct.unpack_from("<L", data, place + 4)
    two = [item + struct.pack("<L", size) for size in (100, length - 100)]
    first, second = data[place + 8 : place + 108], data[place + 108 :]
    file.write_bytes(data[:place] + two[0] + first + two[1] + second)
    with pytest.raises(ImageError, match="in fragments without offsets"):
        DicomSlide(file)


def test_tiles_that_a_sparse_slide_leaves_out_are_white(tmp_path: Path) -> None:
    (file, *_) = write_series(tmp_path, PIXELS, tile=64, factors=(1,), sparse=True, absent=(0, 7))
    slide = DicomSlide(file)
    expected = PIXELS.copy()
    expected[:64, :64] = expected[64:128, 64:128] = 255
    np.testing.assert_array_equal(slide.read(0, (0, 0, 200, 200)), expected[:200, :200])
    assert slide.facts.missing == 0


def test_a_slide_that_is_cut_off_lacks_the_tiles_at_its_end(tmp_path: Path) -> None:
    for syntax in ("explicit", "rle"):
        (file, *_) = write_series(tmp_path, PIXELS, syntax, tile=64, factors=(1,))
        file.write_bytes(file.read_bytes()[:-100_000])
        slide = DicomSlide(file)
        assert 0 < slide.facts.missing < slide.facts.pieces
        np.testing.assert_array_equal(slide.read(0, (0, 0, 64, 64)), PIXELS[:64, :64])
        with pytest.raises(ImageError, match="a part of it is not in the file"):
            slide.read(0, (0, SIDE - 10, 64, 10))


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("single", [False, True])
def test_planted_regions_are_found(single: bool, tmp_path: Path) -> None:
    scene = darkened(1200)
    files = write_series(tmp_path / "in", scene.block(0, 0, scene.side), "jpeg", mpp=(MPP, MPP))
    (tmp_path / "in" / "notes.txt").write_text("another file")
    given = files[0] if single else tmp_path / "in"
    tally = run_slide(asked(given, tmp_path / "out", mpp=2.0))
    with (tmp_path / "out" / "tiles.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    inside, outside, auroc = score(scene, rows)
    assert min(inside, outside) >= 1 and auroc == 1
    assert tally.failed == 0
    made = json.loads((tmp_path / "out" / "slide.json").read_text())
    assert made["slide"]["vendor"] == "DICOM" and made["tiles"]["level"] == int(not single)
    assert made["slide"]["bytes"] >= files[0].stat().st_size


def test_a_reading_process_gives_tiles_and_reasons(tmp_path: Path) -> None:
    write_series(tmp_path / "in", PIXELS, tile=64, factors=(1,))
    file = tmp_path / "in" / "0.dcm"
    data, values = identified(file.read_bytes())
    file.write_bytes(data)
    wanted = Wanted((InputView("plain", 32),), False)
    with SlideReaders(tmp_path / "in", wanted, 1) as readers:
        region = (64, 64, 32, 32)
        (found,) = readers.read([Request(0, region, (32, 32))])
        np.testing.assert_array_equal(found, PIXELS[64:96, 64:96])
        told = json.dumps(readers.facts.to_plain())
    assert not [value for value in values if value in told]
    (tmp_path / "one.dcm").write_bytes(make_dicom(PIXELS).data)
    with pytest.raises(BcdError, match=r"VL Microscopic Image Storage\), not a whole slide"):
        SlideReaders(tmp_path / "one.dcm", wanted, 1)


def unlike(**attributes: Any) -> Any:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "OVERVIEW"}, "only labels, overviews or thumbnails"),
        ({"change": unlike(TotalPixelMatrixRows=64)}, "30 tiles, its size needs 6"),
        ({"change": unlike(TotalPixelMatrixColumns=2**31 - 1)}, "too many tiles"),
        ({"change": unlike(NumberOfOpticalPaths=2)}, "2 optical paths"),
        ({"change": unlike(TotalPixelMatrixFocalPlanes=3)}, "3 focal planes"),
        ({"change": unlike(ConcatenationUID="1.2.3")}, "concatenation"),
        ({"change": unlike(DimensionOrganizationType="TILED_SPARSE")}, "places of its tiles"),
        ({"sparse": True, "change": unlike(Rows=48)}, "not on a grid"),
    ],
)
def test_what_cannot_be_read_is_refused(
    options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    write_level(tmp_path / "a.dcm", PIXELS, "explicit", (1, 1), 64, series="1.2.3", **options)
    with pytest.raises(ImageError, match=expected):
        DicomSlide(tmp_path / "a.dcm")


def test_a_folder_has_one_series_and_each_level_once(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="folder without DICOM files"):
        DicomSlide(tmp_path)
    write_series(tmp_path, PIXELS, "explicit", tile=64, factors=(1, 1))
    with pytest.raises(ImageError, match="several files of one level"):
        DicomSlide(tmp_path)
    write_level(tmp_path / "9.dcm", PIXELS, "explicit", (1, 1), 64, series="1.2.3")
    with pytest.raises(ImageError, match="several series"):
        DicomSlide(tmp_path)


def test_damaged_slides_are_refused_without_what_is_in_them(tmp_path: Path) -> None:
    file = tmp_path / "a.dcm"
    write_level(file, PIXELS, "rle", (1, 1), 64, series="1.2.3", sparse=True)
    data, values = identified(file.read_bytes())
    rng = np.random.default_rng(2)
    reasons = set()
    for number in range(60):
        damaged = bytearray(data[: 9000 if number % 2 else None])
        for place in rng.integers(130, 9000, number % 9):
            damaged[place : place + 2] = rng.bytes(2)
        file.write_bytes(damaged)
        try:
            DicomSlide(file).read(0, (0, 0, 100, 100))
        except ImageError as error:
            reasons.add(str(error))
    assert len(reasons) > 3
    assert not [one for one in reasons for value in values if value in one or len(one) > 160]
