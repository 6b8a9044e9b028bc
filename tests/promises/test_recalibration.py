"""Recalibration keeps its guarantee, and its cross-fitted figures are no better than the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.evaluation.answers import Answers, softmax
from bcd.evaluation.decision import DecisionPolicy, p_malignant
from bcd.evaluation.metrics import losses
from bcd.evaluation.recalibration import cross_fit, refit
from bcd.evaluation.thresholds import Scope
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import Floats, Numbers

DRAWS = 100
BENIGN, CLASSES, EVERY = 0, 4, 2000
POLICY = DecisionPolicy(malignant_threshold=0.5, benign=BENIGN)
MISSED = Promise(
    "a threshold recalibrated together with the temperature misses the sensitivity it guarantees",
    "external.md, statistics.md, bcd eval's output", 0.15, "at most",
)  # fmt: skip


def population(rng: np.random.Generator, images: int, spread: float) -> tuple[Floats, Numbers]:
    """Logits (slides, images, classes) of an overconfident network, and classes of the images."""
    labels = rng.choice(CLASSES, (EVERY, images), p=(0.4, 0.2, 0.2, 0.2))
    own = spread * rng.normal(size=(EVERY, 1, CLASSES))  # what images of a slide have in common
    logits = own + rng.normal(size=(EVERY, images, CLASSES)) + np.eye(CLASSES)[labels]
    return 3 * logits, labels


def coarse(logits: Floats, labels: Numbers) -> Answers:
    """Outputs for images that are only known to be benign or malignant."""
    flat = np.where(labels.ravel() == BENIGN, BENIGN, CLASSES)
    return Answers(
        logits.reshape(-1, CLASSES).astype(np.float32), np.zeros((flat.size, 1), np.float32), flat
    )


def loss(probabilities: Floats, malignant: NDArray[np.bool_]) -> float:
    """Log loss of benign against malignant."""
    p = p_malignant(probabilities, BENIGN)
    return float(losses(np.column_stack([1 - p, p]), malignant.astype(np.int64)).mean())


@pytest.mark.parametrize(
    ("count", "images", "spread"), [(30, 1, 0.0), (100, 1, 0.0), (30, 6, 0.8), (60, 6, 0.8)]
)
def test_few_labelled_slides(count: int, images: int, spread: float, check: Check) -> None:
    rng, draws = np.random.default_rng(0), repeated(DRAWS)
    logits, labels = population(rng, images, spread)
    everything = coarse(logits, labels)
    malignant = everything.labels != BENIGN
    missed, gaps = 0, []
    for _ in range(draws):
        taken = rng.choice(EVERY, count, replace=False)
        local = coarse(logits[taken], labels[taken])
        scope = Scope([f"{i // images}" for i in range(count * images)], "")
        new = refit(POLICY, local, BENIGN, scope)
        assert new.malignant_threshold is not None
        true = softmax(everything.logits / new.temperature)
        called = p_malignant(true, BENIGN) >= new.malignant_threshold
        missed += called[malignant].mean() < new.guaranteed_sensitivity
        crossed = cross_fit(POLICY, local, BENIGN, scope).probabilities
        gaps.append(loss(crossed, local.labels != BENIGN) - loss(true, malignant))
    case = f"{count} {'images' if images == 1 else f'slides of {images} that differ'}"
    check(MISSED, case, missed / draws, 0.0, draws)
    # The cross-fitted loss is not lower than that of new images, on average over sets of labels.
    assert np.mean(gaps) > -3 * np.std(gaps) / np.sqrt(draws)
