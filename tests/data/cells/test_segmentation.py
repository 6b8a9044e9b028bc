"""White cells are found on smears whose true cells are known, at stains that differ most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.data.cells.segmentation import Cells, find_cells
from bcd.data.synthetic.drawing import debris, red_cells, slide_appearance
from bcd.data.synthetic.labels import draw_labels
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear

SEED = 71  # the segmentation was tuned on other seeds
SLIDES = range(24)
IMAGES = 3  # of each class and stain
MATCHED = 0.3  # intersection over union above which a found cell is a true one

Pixels = NDArray[np.uint8]


def dyes(slide: int) -> NDArray[np.float32]:
    """Optical densities of red cell, cytoplasm and nucleus (rows) in R, G and B."""
    return slide_appearance(np.random.default_rng([1, SEED, slide])).dyes


def redness(slide: int) -> float:
    """How much of what red cells absorb is not red light: high for pink ones, low for blue."""
    absorbed = dyes(slide)[0]
    return float(1 - absorbed[0] / absorbed.sum())


STAINS = {
    "bluest": min(SLIDES, key=redness),
    "pinkest": max(SLIDES, key=redness),
    "palest": min(SLIDES, key=lambda slide: dyes(slide)[2].sum()),
}


@dataclass(frozen=True)
class Score:
    """How the found cells of an image agree with the true ones."""

    overlaps: tuple[float, ...]  # of each true cell with the cell found for it; 0 without one
    true: int
    found: int
    false: int


def compare(true: Cells, found: Cells) -> Score:
    """Matches true and found cells one to one, the best overlap first."""
    counts = np.zeros((true.count + 1, found.count + 1))
    np.add.at(counts, (true.labels.ravel(), found.labels.ravel()), 1)
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    overlap = (counts / union)[1:, 1:]
    best = np.zeros(true.count)
    for place in np.argsort(-overlap, axis=None):
        i, j = np.unravel_index(place, overlap.shape)
        if overlap[i, j] > 0:
            best[i] = overlap[i, j]
            overlap[i], overlap[:, j] = 0, 0
    hits = int((best > MATCHED).sum())
    return Score(tuple(best), true.count, found.count, found.count - hits)


@cache
def scores(stain: str) -> tuple[Score, ...]:
    """Of images of all classes of one slide."""
    where = {"slide": STAINS[stain], "seed": SEED}
    return tuple(
        compare(draw_labels(name, index=k, **where), find_cells(draw_smear(name, index=k, **where)))
        for name in CLASS_NAMES
        for k in range(IMAGES)
    )


def test_the_three_stains_differ() -> None:
    assert len(set(STAINS.values())) == 3


@pytest.mark.parametrize("stain", STAINS)
def test_cells_lie_where_they_are(stain: str) -> None:
    overlaps = [overlap for score in scores(stain) for overlap in score.overlaps]
    assert np.mean(overlaps) >= 0.75


@pytest.mark.parametrize("stain", STAINS)
def test_cells_are_counted(stain: str) -> None:
    true, found = (sum(getattr(s, key) for s in scores(stain)) for key in ("true", "found"))
    assert abs(found - true) <= 0.1 * true
    # Errors of images must not cancel out.
    assert sum(abs(s.found - s.true) for s in scores(stain)) <= 0.1 * true
    assert sum(s.false for s in scores(stain)) <= 0.05 * true


@pytest.mark.parametrize("size", [112, 448, 900])
def test_a_field_of_any_size_shows_the_same_cells(size: int) -> None:
    where = {"slide": 1, "seed": SEED, "size": size}
    pairs = [
        compare(draw_labels(name, index=7, **where), find_cells(draw_smear(name, index=7, **where)))
        for name in CLASS_NAMES
    ]
    assert np.mean([overlap for score in pairs for overlap in score.overlaps]) >= 0.75


def test_a_magnified_part_shows_its_cells_whole() -> None:
    """Scale comes from the red cells: the middle of a field, as large as the field."""
    middle = np.s_[112:336, 112:336]
    large: list[float] = []
    for slide in range(6):
        where = {"slide": slide, "index": 4, "seed": SEED, "size": 448}
        cells = draw_labels("Pro-B", **where)
        labels = cells.labels[middle]
        numbers = [n for n in np.unique(labels) if n and (labels == n).sum() > 1000]
        found = find_cells(np.ascontiguousarray(draw_smear("Pro-B", **where)[middle]))
        for number in numbers:
            alone = Cells((labels == number).astype(np.int32), cells.nuclei[middle])
            large += compare(alone, found).overlaps
    assert len(large) > 5
    assert min(large) > 0.75


def test_nuclei_lie_within_cells_and_are_as_large_as_they_are() -> None:
    areas = []
    for number, name in enumerate(CLASS_NAMES * 2):
        where = {"slide": number, "index": number, "seed": SEED}
        true, found = draw_labels(name, **where), find_cells(draw_smear(name, **where))
        assert not (found.nuclei & ~found.mask).any()
        areas.append((true.nuclei.sum(), found.nuclei.sum()))
    true_area, found_area = np.sum(areas, axis=0)
    assert found_area == pytest.approx(true_area, rel=0.1)


def red_only(slide: int, platelets: bool = False) -> Pixels:
    """Red cells, with platelets or alone, drawn as `draw_smear` draws them."""
    look = slide_appearance(np.random.default_rng([1, SEED, slide]))
    rng = np.random.default_rng([SEED, slide])
    red = red_cells(rng, 224, look.pallor)
    specks = debris(rng, 224)[1] * platelets
    amounts = np.asarray(cv2.GaussianBlur(cv2.merge([red, specks]), (0, 0), 0.6))
    density = amounts @ look.dyes[[0, 2]] + 0.007 * rng.standard_normal((224, 224, 1))
    light = np.clip(look.background * np.exp(-density), 0, 255)
    return np.asarray(light, np.uint8)


@pytest.mark.parametrize("slide", STAINS.values())
@pytest.mark.parametrize("platelets", [False, True])
def test_red_cells_and_platelets_are_no_white_cells(slide: int, platelets: bool) -> None:
    assert find_cells(red_only(slide, platelets)).count == 0


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_even_image_has_no_cells(value: int) -> None:
    found = find_cells(np.full((100, 80, 3), value, np.uint8))
    assert found.count == 0 and not found.nuclei.any() and found.labels.shape == (100, 80)
    assert found.boxes == [] and found.centres == []


def test_a_grey_image_and_noise_have_no_cells() -> None:
    image = draw_smear("Pre-B", slide=0, index=0, seed=SEED)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert find_cells(np.repeat(np.asarray(grey)[..., None], 3, axis=2)).count == 0
    noise = np.random.default_rng(0).integers(0, 256, (120, 224, 3), dtype=np.uint8)
    assert find_cells(noise).labels.shape == (120, 224)


def test_a_mirrored_image_has_the_mirrored_cells() -> None:
    image = draw_smear("Pre-B", slide=2, index=1, seed=SEED)
    found = find_cells(image)
    mirrored = find_cells(np.ascontiguousarray(image[:, ::-1]))
    back = Cells(np.ascontiguousarray(mirrored.labels[:, ::-1]), mirrored.nuclei[:, ::-1])
    assert found.count == back.count > 2
    assert min(compare(found, back).overlaps) > 0.95


def test_cells_that_touch_are_divided() -> None:
    """Three discs in a row that touch, and two that overlap by a fifth of their diameter."""
    image = np.full((224, 224, 3), 245, np.uint8)
    for x, y in ((40, 60), (67, 60), (92, 70), (150, 130), (172, 130)):
        cv2.circle(image, (x, y), 14, (110, 70, 160), cv2.FILLED, cv2.LINE_AA)
    for x in range(20, 220, 40):
        cv2.circle(image, (x, 200), 9, (205, 170, 175), cv2.FILLED, cv2.LINE_AA)
    assert find_cells(image).count == 5


def test_a_wide_image_has_the_cells_of_both_halves() -> None:
    parts = [draw_smear("Pro-B", slide=1, index=k, seed=SEED) for k in (1, 2)]
    found = find_cells(np.concatenate(parts, axis=1))
    assert found.labels.shape == (224, 448)
    assert abs(found.count - sum(find_cells(part).count for part in parts)) <= 1


def test_the_same_image_gives_the_same_cells_and_is_not_modified() -> None:
    image = draw_smear("Benign", slide=0, index=3, seed=SEED)
    before = image.copy()
    first, second = find_cells(image), find_cells(image)
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.nuclei, second.nuclei)
    assert np.array_equal(image, before)


def test_boxes_and_centres_belong_to_their_cells() -> None:
    found = find_cells(draw_smear("Pro-B", slide=4, index=2, seed=SEED))
    assert found.labels.dtype == np.int32
    assert sorted(np.unique(found.labels)) == list(range(found.count + 1))
    for number, (box, (x, y)) in enumerate(zip(found.boxes, found.centres, strict=True), start=1):
        left, top, right, bottom = box
        inside = (found.labels == number)[top:bottom, left:right]
        assert inside.sum() == (found.labels == number).sum()
        assert all(line.any() for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        rows, columns = np.nonzero(found.labels == number)
        assert (x, y) == pytest.approx((columns.mean(), rows.mean()))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((31, 100, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.float32),
    ],
)
def test_what_is_no_image_is_refused(image: Pixels) -> None:
    with pytest.raises(ValueError, match="find_cells needs RGB of type uint8"):
        find_cells(image)
