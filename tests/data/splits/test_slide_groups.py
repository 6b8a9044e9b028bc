"""Slide groups are estimated from file order, stain and light, also for interleaved sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from bcd.data.catalog import Catalog
from bcd.data.file_order import file_order
from bcd.data.quality.image_statistics import ImageStatistics
from bcd.data.quality.overlaps import Overlap
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.slide_groups import likely_slides
from tests.helpers.noise import made_up_catalog


def made_up_statistics(slide: np.ndarray, spread: float, seed: int) -> ImageStatistics:
    """ImageStatistics of images whose slide gives stain and light, and chance the rest."""
    rng = np.random.default_rng(seed)
    count, slides = len(slide), int(slide.max()) + 1

    def tones(low: int, high: int) -> np.ndarray:
        base = rng.uniform(low, high, (slides, 3))
        return np.asarray(base[slide] + rng.normal(0, spread, (count, 3)), np.float32)

    columns: dict[str, Any] = {
        "background": tones(200, 250),
        "middle": tones(130, 190),
        "dark": tones(60, 120),
    }
    names = (
        "pixels",
        "grey",
        "tiny",
        "quantiles",
        "background_quantiles",
        "stained",
        "patches",
        "corners",
    )
    columns |= dict.fromkeys(
        (*names, "frame", "encoding", "brightness", "sharpness"), np.zeros((count, 1))
    )
    return ImageStatistics(**columns)


def profiled(statistics: ImageStatistics, overlaps: tuple[Overlap, ...] = ()) -> DataProfile:
    return DataProfile(len(statistics.background), overlaps, lambda: statistics)


def in_sittings(turns: int, seed: int, count: int = 240, slides: int = 6) -> np.ndarray:
    """The slide of each file: `turns` sequences of sittings take turns file by file."""
    slide = np.empty(count, np.int64)
    for turn in range(turns):
        own = np.arange(turn, count, turns)
        pieces = np.array_split(own, slides // turns)
        for number, piece in enumerate(pieces):
            slide[piece] = turn * (slides // turns) + number
    return slide


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_interleaved_sessions_are_separated(turns: int) -> None:
    for seed in range(5):
        slide = in_sittings(turns, seed)
        catalog = made_up_catalog([len(slide)])
        profile = profiled(made_up_statistics(slide, 6, seed))
        found = likely_slides(catalog, profile, 40)
        assert found.strides == {"class0": turns}
        assert found.certainty["class0"] > 0.4
        assert adjusted_rand_score(slide, found.groups) > 0.8


def test_an_uninformative_order_is_ignored() -> None:
    for seed in range(10):
        slide = np.random.default_rng(seed).integers(0, 6, 240)
        catalog = made_up_catalog([240])
        found = likely_slides(catalog, profiled(made_up_statistics(slide, 6, seed)), 40)
        assert found.certainty["class0"] < 0.15
        # Stain and light alone still tell slides as different as these.
        assert adjusted_rand_score(slide, found.groups) > 0.5


def test_overlaps_are_on_one_estimated_slide_and_classes_on_none() -> None:
    slide = in_sittings(1, 0)
    catalog = made_up_catalog([120, 120])
    statistics = made_up_statistics(slide, 6, 0)
    far = [Overlap(i, 119 - i, "near", 0.9) for i in range(8)]
    groups = likely_slides(catalog, profiled(statistics, tuple(far)), 20).groups
    assert all(groups[t.first] == groups[t.second] for t in far)
    assert any(
        likely_slides(catalog, profiled(statistics), 20).groups[t.first]
        != likely_slides(catalog, profiled(statistics), 20).groups[t.second]
        for t in far
    )
    assert not set(groups[:120]) & set(groups[120:])


def test_file_order_takes_numbers_as_numbers() -> None:
    catalog = made_up_catalog([5])
    paths = ["a/f (10).png", "a/f (9).png", "a/f (100).png", "a/b.png", "a/f.png"]
    images = tuple(replace(p, path=q) for p, q in zip(catalog.images, paths, strict=True))
    shuffled: Catalog = replace(catalog, images=images)
    ordered = [paths[i] for i in file_order(shuffled, 0)]
    assert ordered == ["a/b.png", "a/f (9).png", "a/f (10).png", "a/f (100).png", "a/f.png"]
