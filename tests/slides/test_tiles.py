"""Tiles of a slide: their size, their places, and where the smear is."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.errors import ConfigError
from bcd.slides.opening import Level, SlideFacts
from bcd.slides.tiles import Grid, tile_size
from bcd.slides.tissue import Overview, find_tissue


def facts(width: int, height: int, mpp: float | None = 0.25) -> SlideFacts:
    levels = tuple(Level(k, width // 4**k, height // 4**k, 4.0**k) for k in range(3))
    return SlideFacts(width, height, levels, None if mpp is None else (mpp, mpp), "", 0, 1)


@pytest.mark.parametrize(
    ("mpp", "slide_mpp", "width", "level"),
    [
        (None, None, 224, 0),
        (0.25, None, 224, 0),
        (0.5, None, 448, 0),
        (1.0, None, 896, 1),
        (1.0, 0.5, 448, 0),
        (3.9, None, 3494, 1),
        (4.0, None, 3584, 2),
        (0.125, None, 112, 0),
    ],
)
def test_a_tile_shows_what_an_image_of_the_network_shows(
    mpp: float | None, slide_mpp: float | None, width: int, level: int
) -> None:
    slide = facts(40_000, 40_000)
    assert tile_size(slide, 224, mpp, slide_mpp) == (width, width)
    assert slide.best_level(width / 224).number == level


def test_without_the_size_of_its_pixels_a_slide_needs_slide_mpp() -> None:
    slide = facts(4000, 4000, None)
    with pytest.raises(ConfigError, match="give slide_mpp="):
        tile_size(slide, 224, 0.5, None)
    assert tile_size(slide, 224, 0.5, 0.25) == (448, 448)
    assert tile_size(slide, 224, None, None) == (224, 224)


def test_tiles_of_a_few_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than 16 x 16"):
        tile_size(facts(4000, 4000), 224, 0.01, None)


def test_a_slide_that_is_smaller_than_a_tile_is_told() -> None:
    with pytest.raises(ConfigError, match=r"the slide has only 200 x 4000: .*bcd predict") as error:
        tile_size(facts(200, 4000), 224, None, None)
    assert "None" not in str(error.value)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5])
@pytest.mark.parametrize(("width", "height"), [(1000, 700), (960, 96), (97, 193)])
def test_tiles_cover_the_slide(width: int, height: int, overlap: float) -> None:
    grid = Grid(facts(width, height), (96, 96), overlap)
    covered = np.zeros((height, width), int)
    for y in grid.rows:
        for x in grid.columns:
            assert 0 <= x <= width - 96
            assert 0 <= y <= height - 96
            covered[y : y + 96, x : x + 96] += 1
    assert covered.min() == 1
    assert len(grid) == len(grid.rows) * len(grid.columns)
    for starts in (grid.rows, grid.columns):
        assert set(np.diff(starts)[:-1].tolist()) <= {round(96 * (1 - overlap))}


def seen(pixels: NDArray[np.uint8]) -> Overview:
    return Overview(pixels, np.ones(pixels.shape[:2], bool), (1.0, 1.0))


@pytest.mark.parametrize("light", [(243, 241, 238), (225, 215, 170), (180, 190, 200)])
def test_smear_is_told_from_glass_in_any_light(light: tuple[int, int, int]) -> None:
    smear = draw_smear(CLASS_NAMES[1], slide=1, index=3, size=160).astype(float)
    pixels = np.full((320, 480, 3), 1.0)
    noise = np.random.default_rng(0).normal(0, 0.01, pixels.shape)
    pixels[80:240, 100:260] = smear / np.quantile(smear, 0.95, axis=(0, 1))
    pixels = np.clip((pixels + noise) * light, 0, 255)
    pixels[:, 440:] = 0  # not scanned
    mask = find_tissue(seen(pixels.astype(np.uint8)), (80, 80))
    squares = mask.stained.astype(np.uint8)
    stained = np.asarray(cv2.resize(squares, (480, 320), interpolation=cv2.INTER_NEAREST))
    assert stained[80:240, 100:260].mean() > 0.6
    stained[60:260, 80:280] = 0
    assert not stained.any()
    assert mask.share is not None
    assert 0.6 < mask.share / (160 * 160 / (320 * 440)) < 1.4


def test_a_slide_that_is_covered_everywhere_is_not_divided() -> None:
    drawn = [draw_smear(CLASS_NAMES[k % 4], slide=2, index=k, size=160) for k in range(12)]
    pixels = np.concatenate([np.concatenate(drawn[k : k + 4], axis=1) for k in (0, 4, 8)])
    stained = find_tissue(seen(pixels), (160, 160)).stained
    shares = [part.mean() for row in np.split(stained, 3) for part in np.split(row, 4, axis=1)]
    assert min(shares) > 0.25  # the default of min_tissue


def test_glass_alone_has_no_smear() -> None:
    noise = np.random.default_rng(1).normal(240, 3, (300, 300, 3)).astype(np.uint8)
    assert not find_tissue(seen(noise), (50, 50)).stained.mean() > 0.01
    dark = find_tissue(seen(np.zeros_like(noise)), (50, 50))
    assert (dark.share, bool(dark.stained.any())) == (0, False)
    nothing = replace(seen(noise), known=np.zeros((300, 300), bool))
    assert find_tissue(nothing, (50, 50)).share is None
