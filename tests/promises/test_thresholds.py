"""Thresholds chosen on val keep their guarantee over many simulated val sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bcd.evaluation.thresholds import attainable_sensitivity, lower_limit, threshold_for_sensitivity
from bench.promise import BENIGN, CLASSES, IMAGES, loss, misses, simulate
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import Floats, Numbers

DRAWS = 500
CONFIDENCE = 0.9
HARDNESS = (0.5, 3.0)  # how hard slides are follows the beta distribution
SIZES = ("any", "hard ones are large", "hard ones are small")
MISSED = Promise(
    "a threshold misses the sensitivity guaranteed with a confidence of 90 %",
    "statistics.md, thresholds.py, run's output", 0.1, "at most",
)  # fmt: skip
AFTER = Promise(
    "the same if val also selected the temperature and one of five epochs",
    "statistics.md, guarantees.py, report", 0.15, "at most",
)  # fmt: skip


@pytest.mark.parametrize("wanted", [0.9, 0.98, 0.995])
def test_independent_images(wanted: float, check: Check) -> None:
    rng, draws, missed = np.random.default_rng(0), repeated(DRAWS), 0
    for n in np.exp(rng.uniform(np.log(20), np.log(1000), draws)).astype(int):
        found = threshold_for_sensitivity(rng.random(n), np.ones(n, bool), wanted, CONFIDENCE)
        assert found.n_units == n
        assert found.guaranteed == min(wanted, attainable_sensitivity(n, CONFIDENCE))
        missed += 1 - found.threshold < found.guaranteed  # of uniform scores, 1 - t lie above t
    check(MISSED, f"20 to 1,000 independent, {wanted:g} wanted", missed / draws, 0.0, draws)
    assert missed > draws / 100  # nothing is won by calling everything malignant


def ease(hard: Floats) -> Floats:
    """Easiness of slides: the share t**ease of a slide's scores is below t."""
    return 30 * (1 - hard) ** 3 + 0.5


EVERY_SLIDE = ease(stats.beta.ppf((np.arange(4000) + 0.5) / 4000, *HARDNESS))


def true_sensitivity(threshold: float) -> float:
    """Share of images at or above it, drawn at random from slides drawn at random."""
    return float(1 - (threshold**EVERY_SLIDE).mean())


def drawn_val(rng: np.random.Generator, count: int, sizes: str) -> tuple[Floats, Numbers]:
    """Scores of malignant images on `count` slides, and their slides."""
    easy = ease(rng.beta(*HARDNESS, count))
    images = rng.integers(1, 40, count)
    if sizes == "hard ones are large":
        images = np.where(easy < np.median(EVERY_SLIDE), 40, 2)
    elif sizes == "hard ones are small":
        images = np.where(easy < np.median(EVERY_SLIDE), 2, 40)
    scores = rng.random(images.sum()) ** (1 / np.repeat(easy, images))
    return scores, np.repeat(np.arange(count), images)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("wanted", [0.9, 0.995])
def test_slides_that_differ(sizes: str, wanted: float, check: Check) -> None:
    rng, draws, missed = np.random.default_rng(1), repeated(DRAWS), 0
    for _ in range(draws):
        count = int(rng.integers(2, 40))
        scores, groups = drawn_val(rng, count, sizes)
        found = threshold_for_sensitivity(
            scores, np.ones(len(scores), bool), wanted, CONFIDENCE, groups
        )
        assert found.n_units == count
        assert found.guaranteed == min(wanted, attainable_sensitivity(count, CONFIDENCE))
        missed += true_sensitivity(found.threshold) < found.guaranteed
    case = f"2 to 39 slides that differ ({sizes}), {wanted:g} wanted"
    check(MISSED, case, missed / draws, 0.0, draws)


def test_ignoring_slides_would_miss_the_guarantee() -> None:
    rng, missed = np.random.default_rng(2), 0
    for _ in range(DRAWS):
        scores, _ = drawn_val(rng, 8, "any")
        found = threshold_for_sensitivity(scores, np.ones(len(scores), bool), 0.95, CONFIDENCE)
        missed += true_sensitivity(found.threshold) < found.guaranteed
    assert missed > 1.5 * (1 - CONFIDENCE) * DRAWS


@pytest.mark.parametrize(("size", "wanted"), [(145, 0.995), (460, 0.995)])
def test_val_sets_that_also_selected_epoch_and_temperature(
    size: int, wanted: float, check: Check
) -> None:
    rng, draws, missed = np.random.default_rng(0), repeated(150), 0
    labels = rng.choice(CLASSES, IMAGES, p=(0.16, 0.3, 0.29, 0.25))
    epochs = simulate(rng, labels, 5)
    malignant = float((labels != BENIGN).mean())
    for _ in range(draws):
        val = rng.choice(IMAGES, round(size / malignant), replace=False)
        best = int(np.argmin([loss(logits[val], labels[val]) for logits in epochs]))
        missed += misses(epochs[best], labels, val, wanted, fitted=True)
    check(AFTER, f"{size} malignant in val, {wanted:g} wanted", missed / draws, 0.0, draws)


@pytest.mark.parametrize(("count", "share"), [(60, 0.1), (25, 0.05), (4, 0.05)])
@pytest.mark.parametrize("sizes", SIZES)
def test_images_of_new_slides_fall_below_a_limit(
    count: int, share: float, sizes: str, check: Check
) -> None:
    rng, draws = np.random.default_rng(3), repeated(DRAWS)
    below = []
    for _ in range(draws):
        scores, groups = drawn_val(rng, count, sizes)
        limit = lower_limit(scores, share, groups)
        assert limit.n_units == count
        assert limit.share == pytest.approx(max(share, 1 / (count + 1)))
        below.append(1 - true_sensitivity(limit.value))
    text = f"an image of a new slide lies below a limit of val for {limit.share:.3g}"
    promise = Promise(text, "thresholds.py, report (referral)", limit.share, "at most")
    check(promise, f"{count} slides in val ({sizes})", np.mean(below), 0.0, draws)
    assert np.mean(below) > limit.share / 10


@pytest.mark.parametrize(("n", "share"), [(172, 0.02), (172, 0.01), (30, 0.02)])
def test_independent_images_fall_below_a_limit(n: int, share: float, check: Check) -> None:
    rng, draws = np.random.default_rng(5), repeated(2000)
    limits = [lower_limit(rng.random(n), share) for _ in range(draws)]  # t of scores lie below t
    text = f"an image lies below a limit of val for {limits[0].share:.3g}"
    promise = Promise(text, "thresholds.py, report (referral)", limits[0].share, "at most")
    check(promise, f"{n} independent in val", np.mean([x.value for x in limits]), 0.0, draws)
