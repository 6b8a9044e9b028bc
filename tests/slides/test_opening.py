"""Whole-slide files that claim what they do not hold, or cannot be read tile by tile."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.files import ImageError
from bcd.data.items import Wanted
from bcd.slides.opening import MOST_SIDE, SlideFile
from bcd.slides.readers import SlideReaders
from bcd.slides.serving import Request

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("tiffslide")

SIDE = 512


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    return np.repeat(np.repeat(coarse, 16, 0), 16, 1)


def write(file: Path, pixels: NDArray[Any], **options: Any) -> Path:
    usual = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
    tifffile.imwrite(file, pixels, **{**usual, **options})
    return file


def replaced(file: Path, tag: int, change: Callable[[bytes], bytes]) -> None:
    """Changes the stored value of a tag of the first page."""
    with tifffile.TiffFile(file) as tiff:
        entry = tiff.pages[0].tags[tag]
        start, length = entry.valueoffset, entry.valuebytecount
    data = bytearray(file.read_bytes())
    data[start : start + length] = change(bytes(data[start : start + length]))
    file.write_bytes(data)


def of(number: int) -> Callable[[bytes], bytes]:
    return lambda value: number.to_bytes(len(value), "little")


def test_a_region_is_read_at_its_place(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    size = {"resolution": (1e4 / 0.25, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    slide = SlideFile(write(tmp_path / "a :: b [1].tif", pixels, **size))
    assert (slide.facts.width, slide.facts.height, slide.facts.missing) == (SIDE, SIDE, 0)
    assert slide.facts.mpp == pytest.approx((0.25, 0.5))
    assert np.array_equal(slide.read(0, (200, 100, 150, 300)), pixels[100:400, 200:350])
    assert np.array_equal(slide.read(0, (0, 0, SIDE, SIDE)), pixels)


def test_a_vendor_s_pyramid_is_read_without_its_thumbnail(
    pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    file, small = tmp_path / "a.svs", np.ascontiguousarray(pixels[::4, ::4])
    facts = "|AppMag = 20|MPP = 0.4990"
    tiles = {"tile": (256, 256), "compression": "zlib"}
    with tifffile.TiffWriter(file) as writer:
        for level, options in ((pixels, tiles), (small[::2, ::2], {}), (small, tiles)):
            about = f"Aperio Image Library v11\r\n{SIDE}x{SIDE} (256x256){facts}"
            writer.write(level, photometric="rgb", description=about, metadata=None, **options)
    slide = SlideFile(file)
    assert slide.facts.vendor == "aperio"
    assert slide.facts.mpp == (0.499, 0.499)
    assert [level.width for level in slide.facts.levels] == [SIDE, SIDE // 4]
    read = slide.read(1, (256, 128, 256, 128))
    assert np.array_equal(read, small[32:64, 64:128])


@pytest.mark.parametrize("kind", ["grey", "alpha", "deflate"])
def test_other_pixels_become_rgb(kind: str, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    given, expected = pixels, pixels
    options: dict[str, Any] = {"compression": "zlib"}
    if kind == "grey":
        given, options = pixels[..., 0], {"photometric": "minisblack"}
        expected = np.repeat(pixels[..., :1], 3, axis=2)
    elif kind == "alpha":
        given = np.concatenate([pixels, np.full((SIDE, SIDE, 1), 255, np.uint8)], axis=2)
        given[:100, :, 3] = 0
        options = {"extrasamples": ["unassalpha"]}
        expected = pixels.copy()
        expected[:100] = 255  # transparent pixels are white
    read = SlideFile(write(tmp_path / "a.tif", given, **options)).read(0, (0, 0, SIDE, SIDE))
    assert np.array_equal(read, expected)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("16 bits", "8-bit"),
        ("cmyk", "unsupported colours"),
        ("one strip", "tiled TIFF"),
        ("claims a width", "claims"),
        ("claims tiles", "its size needs"),
        ("new compression", r"unsupported compression \(12345\)"),
        ("fax", r"unsupported compression \(JBIG\)"),
    ],
)
def test_what_cannot_be_read_tile_by_tile_is_refused(
    kind: str, reason: str, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = tmp_path / "a.tif"
    if kind == "16 bits":
        write(file, pixels.astype(np.uint16))
    elif kind == "cmyk":
        write(file, np.concatenate([pixels, pixels[..., :1]], axis=2), photometric="separated")
    elif kind == "one strip":
        strip = np.zeros((6000, 6000, 3), np.uint8)
        write(file, strip, tile=None, rowsperstrip=6000, compression="zlib")
    else:
        write(file, pixels)
        tags = {"claims a width": (256, 2 * MOST_SIDE), "claims tiles": (322, 16)}
        tag, value = {**tags, "new compression": (259, 12345), "fax": (259, 34661)}[kind]
        replaced(file, tag, of(value))
    with pytest.raises(ImageError, match=reason):
        SlideFile(file)


def test_each_tile_fails_on_its_own(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """One tile is no JPEG, one claims 65,500 pixels a side, and one lies behind the file's end."""
    file = write(tmp_path / "a.tif", pixels, compression="jpeg")
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        starts, lengths = page.dataoffsets, page.databytecounts
        offsets = page.tags[324].valueoffset
    data = bytearray(file.read_bytes())
    data[starts[0] : starts[0] + lengths[0]] = bytes(lengths[0])
    frame = data.index(b"\xff\xc0", starts[1])
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    data[offsets + 8 : offsets + 12] = struct.pack("<I", 2 * len(data))
    file.write_bytes(data)
    places = [(0, 0), (256, 0), (0, 256), (256, 256)]
    requests = [Request(0, (x, y, 256, 256), (64, 64)) for x, y in places]
    with SlideReaders(file, Wanted((), False), 1) as readers:
        assert readers.facts.missing == 1
        answers = list(readers.read([*requests, requests[3]]))
    reasons = [answer if isinstance(answer, str) else "" for answer in answers]
    assert "cannot be decoded" in reasons[0]
    assert "cannot be decoded" in reasons[1]
    assert reasons[2] == "a part of it is not in the file"
    for answer in answers[3:]:
        assert not isinstance(answer, str)
        expected = pixels[256:, 256:].reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.abs(answer - expected).mean() < 5
