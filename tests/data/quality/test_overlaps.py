"""Copies and overlaps are found, remembered, told apart and dropped."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcd.audit.checks import check_files
from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig
from bcd.data.catalog import Catalog
from bcd.data.load import load_catalog
from bcd.data.quality.image_statistics import describe, image_statistics
from bcd.data.quality.keypoints import Keypoints
from bcd.data.quality.overlaps import Overlap, find_overlaps, write_pairs
from bcd.data.quality.profile import DataProfile, drop_duplicates, profile_images
from bcd.data.quality.retrieval import _rarity, find_candidates
from bcd.data.reading import ReadImage, read_verified
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from tests.helpers.fields import cut, draw_large
from tests.helpers.memory import peak_growth

Pixels = NDArray[np.uint8]


def smear(index: int, slide: int = 0) -> Pixels:
    return draw_smear(CLASS_NAMES[index % 4], slide=slide, index=index)


def save(root: Path, images: dict[str, Pixels]) -> Catalog:
    for name, image in images.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(file)
    return load_catalog(with_defaults(DataConfig, root=str(root)))


def reencoded(image: Pixels) -> Pixels:
    _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "encoding": reencoded,
    "size": lambda p: np.asarray(cv2.resize(p, (150, 130), interpolation=cv2.INTER_AREA), np.uint8),
    "brightness": lambda p: np.clip(p * 1.25, 0, 255).astype(np.uint8),
    "grey": lambda p: np.repeat(p[:, :, 1:2], 3, axis=2),
    "mirror": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "turn": lambda p: np.ascontiguousarray(np.rot90(p)),
    "blur": lambda p: np.asarray(cv2.GaussianBlur(p, (0, 0), 2), np.uint8),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_changed_copy_is_a_near_duplicate(tmp_path: Path, name: str) -> None:
    images = {f"A/{i}.png": smear(i, slide=i % 3) for i in range(6)}
    images |= {f"B/{i}.png": CHANGES[name](image) for i, image in enumerate(images.values())}
    found = profile_images(save(tmp_path / "in", images)).overlaps
    assert [(o.first, o.second, o.kind) for o in found] == [(i, i + 6, "near") for i in range(6)]
    assert all(o.share > 0.95 and abs(o.dx) < 0.01 and abs(o.dy) < 0.01 for o in found)


def parted_copies(root: Path) -> Catalog:
    """Copies of one file, the same pixels in another format, a mirror image, and an overlap."""
    images = {f"A/{i}.png": smear(i) for i in range(6)}
    field = draw_large(3)
    parts = [cut(field, np.asarray([x, 256.0]), 0.0).pixels for x in (200.0, 290.0)]
    images |= {"B/0.png": smear(9), "B/1.png": smear(9)[:, ::-1]}
    save(root, {**images, "B/2.png": parts[0], "B/3.png": parts[1]})
    shutil.copy(root / "A/2.png", root / "A/7.png")
    Image.fromarray(smear(4)).save(root / "A/8.bmp")
    return load_catalog(with_defaults(DataConfig, root=str(root)))


def test_copies_near_duplicates_and_overlaps_are_told_apart(tmp_path: Path) -> None:
    catalog = parted_copies(tmp_path / "in")
    names = [p.path for p in catalog.images]
    pairs = find_overlaps(catalog, lambda: image_statistics(catalog))
    assert {(names[o.first], names[o.second], o.kind) for o in pairs} == {
        ("A/2.png", "A/7.png", "bytes"),
        ("A/4.png", "A/8.bmp", "pixels"),
        ("B/0.png", "B/1.png", "near"),
        ("B/2.png", "B/3.png", "overlap"),
    }
    write_pairs(tmp_path / "pairs.csv", catalog, pairs)
    with (tmp_path / "pairs.csv").open(newline="") as stream:
        rows = {row["path_a"]: row for row in csv.DictReader(stream)}
    row = rows["B/2.png"]
    assert (row["path_b"], row["kind"]) == ("B/3.png", "overlap")
    assert float(row["dx"]) == pytest.approx(90 / 224, abs=0.01)
    assert float(row["dy"]) == pytest.approx(0, abs=0.01)
    assert float(row["overlap"]) == pytest.approx(1 - 90 / 224, abs=0.03)
    assert 0.9 < float(row["score"]) <= 1
    assert [rows["A/2.png"][n] for n in ("score", "dx", "dy", "overlap")] == [
        "1.0", "0.0", "0.0", "1.0",
    ]  # fmt: skip


def test_a_part_of_a_field_is_no_near_duplicate_of_the_whole(tmp_path: Path) -> None:
    """Whichever comes first: of the larger one a third is in it alone."""
    field = draw_large(6)
    whole, part = (
        np.asarray(cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA), np.uint8)
        for pixels in (field[:280, :280], field[20:250, 30:260])
    )
    images = {"A/0.png": whole, "A/1.png": part, "B/0.png": part[::-1], "B/1.png": whole[:, ::-1]}
    others = {f"{name}/{i}.png": smear(i, slide=1) for name in "AB" for i in (5, 6)}
    catalog = save(tmp_path / "in", {**images, **others})
    names = [p.path for p in catalog.images]
    kinds = {(names[o.first], names[o.second]): o.kind for o in profile_images(catalog).overlaps}
    assert kinds[("A/0.png", "A/1.png")] == kinds[("B/0.png", "B/1.png")] == "overlap"
    assert kinds[("A/0.png", "B/1.png")] == kinds[("A/1.png", "B/0.png")] == "near"


def test_every_pair_of_a_field_that_was_taken_many_times_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    field, names = draw_large(8), rng.permutation(100)
    images: dict[str, Pixels] = {}
    for number, name in enumerate(names):
        centre = np.full(2, 256.0) + rng.uniform(-20, 20, 2)
        shot = number < 24
        image = cut(field, centre, rng.uniform(0, 7)).pixels if shot else smear(number, number % 3)
        images[f"{'A' if shot else 'AB'[number % 2]}/{name:02d}.png"] = image
    catalog = save(tmp_path / "in", images)
    shown = {f"A/{name:02d}.png" for name in names[:24]}
    pairs = profile_images(catalog).overlaps
    found = [{catalog.images[o.first].path, catalog.images[o.second].path} for o in pairs]
    assert len(found) == 24 * 23 / 2
    assert all(pair <= shown for pair in found)


def test_empty_fields_do_not_overlap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(200, 240, 224)[:, None, None]  # the same uneven light on all
    empty = {
        f"{name}/{i}.png": (ramp + rng.normal(0, 1, (224, 224, 3))).clip(0, 255).astype(np.uint8)
        for name in "AB"
        for i in range(5)
    }
    assert profile_images(save(tmp_path / "in", empty)).overlaps == ()


def test_a_second_profile_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "in"
    save(
        root, {f"{name}/{i}.png": smear(4 * i + k) for i in range(4) for k, name in enumerate("AB")}
    )
    measured: list[Path] = []
    searched: list[Path] = []

    def read_to_measure(path: Path, sha256: str) -> ReadImage:
        measured.append(path)
        return read_verified(path, sha256)

    def read_to_search(path: Path, sha256: str) -> ReadImage:
        searched.append(path)
        return read_verified(path, sha256)

    monkeypatch.setattr("bcd.data.quality.image_statistics.read_verified", read_to_measure)
    monkeypatch.setattr("bcd.data.quality.keypoints.read_verified", read_to_search)
    catalog = load_catalog(with_defaults(DataConfig, root=str(root)))
    first = profile_images(catalog)
    assert (len(measured), len(searched)) == (8, 8)
    again = profile_images(catalog)
    assert (len(measured), len(searched)) == (8, 8)
    assert first.overlaps == again.overlaps
    for name, column in vars(first.statistics).items():
        np.testing.assert_array_equal(column, getattr(again.statistics, name))
    # Only a changed image is measured again; all are once the cache is damaged.
    Image.fromarray(smear(77)).save(root / "A" / "0.png")
    changed = load_catalog(with_defaults(DataConfig, root=str(root)))
    profile = profile_images(changed)
    assert measured[8:] == [root / "A" / "0.png"]
    expected = describe(smear(77))["grey"]
    np.testing.assert_array_equal(profile.statistics.grey[0], expected)
    (file,) = (tmp_path / "cache" / "statistics").glob("*.npz")
    before = profile.statistics.grey
    file.write_bytes(file.read_bytes()[:300])
    np.testing.assert_array_equal(profile_images(changed).statistics.grey, before)
    assert len(measured) == 9 + 8


def test_overlaps_hang_together_and_touch_what_copies_of_them_do() -> None:
    pairs = (
        Overlap(0, 3, "overlap", share=0.4),
        Overlap(2, 4, "bytes"),
        Overlap(2, 6, "bytes"),
        Overlap(3, 5, "near", share=0.9),
        Overlap(5, 6, "overlap", share=0.2),
    )
    profile = DataProfile(8, pairs, lambda: pytest.fail("no statistics are needed"))
    found = profile.components
    assert len(set(found[[0, 2, 3, 4, 5, 6]])) == 1
    assert len(set(found)) == 3
    assert profile.duplicates[3] == profile.duplicates[5] != profile.duplicates[0]
    assert np.flatnonzero(profile.touching([0])).tolist() == [0, 3]
    assert np.flatnonzero(profile.touching([4])).tolist() == [2, 4, 5, 6]
    assert np.flatnonzero(profile.touching([5])).tolist() == [2, 3, 4, 5, 6]
    assert not profile.touching([]).any()


def test_one_image_of_a_field_stays_and_none_of_a_conflict(tmp_path: Path) -> None:
    root = tmp_path / "in"
    images = {f"A/{i}.png": smear(i) for i in range(5)}
    images |= {f"B/{i}.png": smear(10 + i) for i in range(5)}
    images |= {"A/9.png": smear(1)[::-1], "B/9.png": smear(2)[:, ::-1]}
    field = draw_large(5)  # what overlaps in part is not dropped
    for name, x in (("A/a.png", 200.0), ("A/b.png", 290.0)):
        images[name] = cut(field, np.asarray([x, 256.0]), 0.0).pixels
    catalog = drop_duplicates(save(root, images))
    kept = {p.path for p in catalog.images}
    assert kept == set(images) - {"A/9.png", "A/2.png", "B/9.png"}
    reasons = {r.path: r.reason for r in catalog.rejected}
    assert reasons["A/9.png"] == "shows the field of A/1.png"
    assert reasons["A/2.png"] == reasons["B/9.png"]
    assert "another class" in reasons["A/2.png"]
    files = check_files(catalog)[0]  # they can be read, and nothing is to be repaired
    assert (files.status, files.fix) == ("PASS", "")
    left_out = "3 excluded by data.drop_duplicates=true"
    assert files.finding == f"all {len(images)} can be read; {left_out}"
    asked = load_catalog(with_defaults(DataConfig, root=str(root), drop_duplicates=True))
    assert asked.images == catalog.images


def test_of_a_stage_that_moved_on_more_than_one_image_stays(tmp_path: Path) -> None:
    """Each step is a near duplicate of the one before; the first and the last share a third."""
    field = draw_large(9)
    steps = {
        f"A/{i}.png": cut(field, np.asarray([180.0 + 24 * i, 256.0]), 0.0).pixels for i in range(7)
    }
    catalog = save(tmp_path / "in", {**steps, **{f"B/{i}.png": smear(i) for i in range(3)}})
    profile = profile_images(catalog)
    assert len(set(profile.duplicates[:7])) == 1
    kept = drop_duplicates(catalog)
    assert [p.path for p in kept.images if p.path in steps] == [f"A/{i}.png" for i in (0, 2, 4, 6)]
    assert [(r.path, r.reason) for r in kept.rejected] == [
        (f"A/{i}.png", f"shows the field of A/{i - 1}.png") for i in (1, 3, 5)
    ]


def test_a_word_that_many_images_have_is_not_looked_up() -> None:
    images = np.arange(1000)
    words = np.where(images < 500, 7, images)
    weight = _rarity(np.concatenate([images, images]), np.concatenate([words, words]), 1000)
    assert weight[7] == 0
    assert weight[[500, 999]] == pytest.approx(np.log(1000))  # twice in one image is once


@pytest.mark.slow
@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_square() -> None:
    rng = np.random.default_rng(0)
    count, k = 12_000, 48
    descriptors = rng.normal(size=(count, k, 32)).astype(np.float16)
    angle = rng.uniform(0, 2 * np.pi, (count, k)).astype(np.float32)
    place = (rng.random((count, k)) + 1j * rng.random((count, k))).astype(np.complex64)
    descriptors[7], angle[7], place[7] = descriptors[9_000], angle[9_000] + 2, place[9_000]
    descriptors /= np.linalg.norm(descriptors.astype(np.float32), axis=2, keepdims=True)
    extent, views = np.ones((count, 2), np.float32), np.zeros((count, 1, 1), np.uint8)
    counts = np.full(count, k, np.int64)
    mirror = np.ones(32, np.float32)
    points = Keypoints(counts, place, angle, descriptors, mirror, extent, views)
    _, known = peak_growth(lambda: np.ones((100, 2**20), np.uint8).sum())
    assert 100 <= known < 110  # 100 MB are noticed
    found, grown = peak_growth(lambda: find_candidates(points, [np.arange(count)]))
    assert ((found.first == 7) & (found.second == 9_000)).any()
    assert len(found.first) < 15 * count
    assert grown < 250, grown  # MB; all pairs as float32 would take 576
