"""Pictures of one field are found however they were saved; pictures of two fields are not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from noise import made_up_catalog
from numpy.typing import NDArray
from PIL import Image

from bcd.config import DataConfig
from bcd.data.catalog import Catalog, load_catalog
from bcd.data.files import read_bytes
from bcd.data.generated import CLASS_NAMES, draw_smear
from bcd.data.looks import Looks, describe, look_at
from bcd.data.reading import fit
from bcd.data.survey import drop_duplicates, survey_pictures
from bcd.data.twins import ALIKE, Twin, clusters, details, find_twins, likeness

Pixels = NDArray[np.uint8]


def smear(index: int, slide: int = 0) -> Pixels:
    return draw_smear(CLASS_NAMES[index % 4], slide=slide, index=index)


def compared(first: Pixels, second: Pixels) -> float:
    grey = np.stack([describe(fit(p, 224))["grey"] for p in (first, second)]).astype(np.uint8)
    fields, _ = details(grey)
    return float(likeness(fields[:1], fields[1:])[0])


def reencoded(picture: Pixels) -> Pixels:
    _, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "encoding": reencoded,
    "size": lambda p: np.asarray(cv2.resize(p, (128, 96), interpolation=cv2.INTER_AREA), np.uint8),
    "brightness": lambda p: np.clip(p * 1.25, 0, 255).astype(np.uint8),
    "grey": lambda p: np.repeat(p[:, :, 1:2], 3, axis=2),
    "mirror": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "turn": lambda p: np.ascontiguousarray(np.rot90(p)),
    "shift": lambda p: np.roll(p, (14, -9), axis=(0, 1)),
    "blur": lambda p: np.asarray(cv2.GaussianBlur(p, (0, 0), 2), np.uint8),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_field_is_known_again(name: str) -> None:
    for index in range(12):
        picture = smear(index, slide=index % 3)
        assert compared(picture, CHANGES[name](picture)) > ALIKE


def test_two_fields_of_one_slide_are_not_taken_for_one() -> None:
    pictures = [smear(index) for index in range(24)]
    values = [compared(a, b) for n, a in enumerate(pictures) for b in pictures[:n]]
    assert max(values) < ALIKE - 0.1


def save(root: Path, pictures: dict[str, Pixels]) -> Catalog:
    for name, picture in pictures.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture)).save(file)
    return load_catalog(DataConfig(root=str(root)))


def test_equal_files_equal_pixels_and_like_fields_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "in"
    pictures = {f"A/{i}.png": smear(i) for i in range(6)}
    save(root, {**pictures, "B/0.png": smear(9), "B/1.png": smear(9)[:, ::-1]})
    shutil.copy(root / "A/2.png", root / "A/7.png")
    Image.fromarray(smear(4)).save(root / "A/8.bmp")
    catalog = load_catalog(DataConfig(root=str(root)))
    names = [p.path for p in catalog.pictures]
    found = {
        (names[t.first], names[t.second], t.kind)
        for t in find_twins(catalog, lambda: look_at(catalog))
    }
    assert found == {
        ("A/2.png", "A/7.png", "bytes"),
        ("A/4.png", "A/8.bmp", "pixels"),
        ("B/0.png", "B/1.png", "near"),
    }


def test_empty_fields_are_no_twins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(200, 240, 224)[:, None, None]  # the same uneven light on all
    empty = {
        f"{name}/{i}.png": (ramp + rng.normal(0, 1, (224, 224, 3))).clip(0, 255).astype(np.uint8)
        for name in "AB"
        for i in range(5)
    }
    assert survey_pictures(save(tmp_path / "in", empty)).twins == ()


def test_the_second_survey_opens_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "in"
    save(
        root, {f"{name}/{i}.png": smear(4 * i + k) for i in range(4) for k, name in enumerate("AB")}
    )
    opened: list[Path] = []

    def recorded(path: Path) -> bytes:
        opened.append(path)
        return read_bytes(path)

    monkeypatch.setattr("bcd.data.looks.read_bytes", recorded)
    catalog = load_catalog(DataConfig(root=str(root)))
    first = survey_pictures(catalog)
    assert len(opened) == 8
    again = survey_pictures(catalog)
    assert len(opened) == 8
    for name, column in vars(first.looks).items():
        np.testing.assert_array_equal(column, getattr(again.looks, name))
    # A changed picture is looked at anew, alone; so is everything once the memory is damaged.
    Image.fromarray(smear(77)).save(root / "A" / "0.png")
    changed = load_catalog(DataConfig(root=str(root)))
    survey = survey_pictures(changed)
    assert opened[8:] == [root / "A" / "0.png"]
    expected = describe(smear(77))["grey"]
    np.testing.assert_array_equal(survey.looks.grey[0], expected)
    (memory,) = (tmp_path / "cache" / "looks").glob("*.npz")
    before = survey.looks.grey
    memory.write_bytes(memory.read_bytes()[:300])
    np.testing.assert_array_equal(survey_pictures(changed).looks.grey, before)
    assert len(opened) == 9 + 8


def test_twins_hang_together_in_clusters() -> None:
    twins = [Twin(0, 3, "near", 0.9), Twin(3, 5, "near", 0.9), Twin(2, 4, "bytes", 1.0)]
    found = clusters(7, twins)
    assert found[0] == found[3] == found[5] != found[2] == found[4]
    assert len(set(found)) == 4


def test_one_picture_of_a_field_stays_and_none_of_a_conflict(tmp_path: Path) -> None:
    root = tmp_path / "in"
    pictures = {f"A/{i}.png": smear(i) for i in range(5)}
    pictures |= {f"B/{i}.png": smear(10 + i) for i in range(5)}
    pictures |= {"A/9.png": smear(1)[::-1], "B/9.png": smear(2)[:, ::-1]}
    catalog = drop_duplicates(save(root, pictures))
    kept = {p.path for p in catalog.pictures}
    assert kept == set(pictures) - {"A/9.png", "A/2.png", "B/9.png"}
    reasons = {r.path: r.reason for r in catalog.rejected}
    assert reasons["A/9.png"] == "shows the field of A/1.png"
    assert reasons["A/2.png"] == reasons["B/9.png"]
    assert "another class" in reasons["A/2.png"]
    asked = load_catalog(DataConfig(root=str(root), drop_duplicates=True))
    assert asked.pictures == catalog.pictures


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")  # which Windows lacks
    monkeypatch.setenv("BCD_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    count = 20_000
    catalog = made_up_catalog([count])
    coarse = rng.integers(0, 255, (count, 8, 8), dtype=np.uint8)
    grey = np.stack([cv2.resize(c, (32, 32), interpolation=cv2.INTER_CUBIC) for c in coarse])
    grey[1] = grey[0, ::-1]
    pixels = rng.integers(0, 255, (count, 32), dtype=np.uint8)
    others: dict[str, Any] = dict.fromkeys(_OTHERS, np.zeros((count, 1)))
    looks = Looks(pixels=pixels, grey=grey, **others)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    twins = find_twins(catalog, lambda: looks)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (twins[0].first, twins[0].second) == (0, 1)
    assert twins[0].likeness > 0.99
    # All pairs as float32 would take 1.6 GB.
    assert grown < 700_000 * (1024 if sys.platform == "darwin" else 1)


_OTHERS = tuple(f.name for f in fields(Looks) if f.name not in ("pixels", "grey"))
