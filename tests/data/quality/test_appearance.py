"""What a set of images looks like, and how a difference is put into words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.load import load_catalog
from bcd.data.matching import Match
from bcd.data.quality.appearance import (
    CACHE,
    FEWEST,
    SIDE,
    Appearance,
    choose_evenly,
    look_at,
    measure_appearance,
    summarize,
)
from bcd.data.quality.sample import Sample
from bcd.data.reading import read_image
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear, generate
from bcd.evaluation.appearance import find_differences


def drawn(count: int = 16, first: int = 0) -> list[np.ndarray]:
    numbers = range(first, first + count)
    return [draw_smear(CLASS_NAMES[i % 4], slide=i % 8, index=i, seed=3) for i in numbers]


@pytest.fixture(scope="module")
def own() -> Appearance:
    found = summarize([look_at(image) for image in drawn(32)])
    assert found is not None
    return found


def test_colours_are_means_over_images() -> None:
    images = drawn(6)
    found = summarize([look_at(image) for image in images])
    assert found is not None
    labs = [cv2.cvtColor(i.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for i in images]
    np.testing.assert_allclose(
        found.lab_mean, np.mean(labs, axis=(0, 1, 2), dtype=np.float64), rtol=1e-4
    )
    within = np.mean([np.var(lab, axis=(0, 1), dtype=np.float64) for lab in labs], axis=0)
    np.testing.assert_allclose(found.lab_std, np.sqrt(within), rtol=1e-4)
    medians = np.median([np.mean(lab, axis=(0, 1), dtype=np.float64) for lab in labs], axis=0)
    np.testing.assert_allclose([s.median for s in found.colours], medians, rtol=1e-4)


def test_it_survives_json_and_nothing_else_passes_for_it(own: Appearance) -> None:
    plain = json.loads(json.dumps(own.to_plain()))
    assert Appearance.from_plain(plain) == own
    for change in ({"lab_mean": [1, 2]}, {"lab_std": [1, 2, float("nan")]}, {"cells": 3}):
        with pytest.raises(ValueError, match="not an appearance"):
            Appearance.from_plain({**plain, **change})
    with pytest.raises(ValueError, match="not an appearance"):
        Appearance.from_plain({})


def test_too_few_images_are_not_summarized() -> None:
    looks = [look_at(image) for image in drawn(5)]
    assert summarize(looks) is not None
    assert summarize(looks[:4]) is None
    blank = look_at(np.full((224, 224, 3), 200, np.uint8))
    found = summarize([*looks[:4], *[blank] * 10])
    assert found is not None
    assert found.cells is None


def test_images_like_those_of_training_are_not_remarked_on(own: Appearance) -> None:
    again = summarize([look_at(image) for image in drawn(16, first=100)])
    assert again is not None
    assert find_differences(own, again) == []


def test_scale_and_colour_are_put_into_words(own: Appearance) -> None:
    small, blue = [], []
    for image in drawn(16, first=100):
        small.append(Match(0.5, None).prepare(image, 224, False))
        lab = np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
        lab -= np.array((6, 0, 12), np.float32)
        shifted = 255 * np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
        blue.append(np.clip(shifted, 0, 255).astype(np.uint8))
    found = summarize([look_at(image) for image in small])
    assert found is not None
    (line,) = find_differences(own, found)
    factor = float(line.removeprefix("cells ").partition(" ")[0])
    assert line.startswith(f"cells {factor} times smaller than in training (red cells of ")
    assert factor == pytest.approx(2, abs=0.2)
    found = summarize([look_at(image) for image in blue])
    assert found is not None
    background = next(line for line in find_differences(own, found) if "background" in line)
    assert "bluer by 1" in background
    assert "(CIELAB)" in background


def test_what_was_not_measured_is_not_compared(own: Appearance) -> None:
    other = replace(own, cells=None, background=None)
    assert find_differences(own, other) == find_differences(other, own) == []


def test_a_sample_is_evenly_spaced() -> None:
    assert choose_evenly(7, 10) == list(range(7))
    assert choose_evenly(30, 10) == list(range(0, 30, 3))
    assert choose_evenly(25, 10) == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert choose_evenly(0) == []


def test_a_sample_of_a_stream_is_spaced_evenly_whatever_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bcd.data.quality.sample.look_at", lambda pixels: int(pixels[0, 0, 0]))
    monkeypatch.setattr("bcd.data.quality.sample.MOST", 10)
    expected = {0: [], FEWEST - 1: [], 10: list(range(10)), 11: list(range(0, 11, 2)),
                40: list(range(0, 40, 4)), 200: list(range(0, 200, 32))}  # fmt: skip
    for count, numbers in expected.items():
        sample = Sample()
        for number in range(count):
            sample.add(np.full((SIDE, SIDE, 3), number, np.uint8))
        found: list[Any] = sample.looks()
        assert found == numbers
    sample = Sample()
    for number in range(10):  # what cannot be measured has a place as well
        sample.add(None if number % 2 else np.full((SIDE // 2, SIDE // 2, 3), number, np.uint8))
    measured: list[Any] = sample.looks()
    assert measured == list(range(0, 10, 2))


def test_a_catalog_is_measured_once_for_each_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    generate(tmp_path / "images", count=12, slides=2, size=224)
    catalog = load_catalog(with_defaults(DataConfig, root=str(tmp_path / "images")))
    indices = list(range(12))
    plain = measure_appearance(catalog, indices, False)
    files = [read_image(catalog.root / p.path) for p in catalog.images]
    assert plain == summarize([look_at(file) for file in files])
    matched = measure_appearance(catalog, indices, False, Match(0.5, None))
    assert matched != plain
    assert len(list((tmp_path / "cache" / CACHE.name).iterdir())) == 2
    monkeypatch.setattr("bcd.data.quality.appearance.look_at", None)
    assert measure_appearance(catalog, indices, False) == plain
    assert measure_appearance(catalog, indices, False, Match(0.5, None)) == matched
