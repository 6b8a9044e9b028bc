"""Coverage of intervals of single metrics."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from bcd.evaluation.confusion_intervals import at_prevalence, confusion_intervals
from bcd.evaluation.intervals import wilson
from bcd.evaluation.metrics import confusion_metrics
from tests.promises.stating import Check, Promise, repeated
from tests.promises.worlds import CLASSES, World, answers, true_matrix

MADE = "README, statistics.md, intervals.py, report"
FIGURES = {
    "accuracy": ("accuracy",),
    "balanced accuracy, macro F1, MCC": ("balanced_accuracy", "f1", "mcc"),
    "sensitivity and specificity": ("malignant_sensitivity", "malignant_specificity"),
    "PPV and NPV as found": ("ppv_found", "npv_found"),
    "PPV and NPV at a prevalence of 0.01": ("malignant_ppv", "malignant_npv"),
}
PREVALENCE = 0.01
# By how much coverage is known to fall short of 0.95, figure by figure in the order above.
SHORT = {
    World(0.9): (0.01,) * 5,
    World(0.99): (0.01,) * 5,
    World(0.92, groups=200, icc=0.05, images=2000): (0.01,) * 5,
    World(0.9, groups=40): (0.02,) * 5,
    World(0.97, groups=25, uneven=1.2): (0.02,) * 5,
    World(0.92, groups=12, images=736): (0.06,) * 5,
    World(0.92, groups=6, icc=0.5, uneven=0.0, images=736): (0.1,) * 5,
}


def truths(accuracy: float) -> dict[str, float]:
    matrix = true_matrix(accuracy)
    found = {n: float(v) for n, v in confusion_metrics(matrix).items() if v.ndim == 0}
    ill, called = matrix[1:].sum(), matrix[:, 1:].sum()
    both = matrix[1:, 1:].sum()
    found |= {
        "malignant_sensitivity": both / ill,
        "malignant_specificity": matrix[0, 0] / (1 - ill),
        "ppv_found": both / called,
        "npv_found": matrix[0, 0] / (1 - called),
    }
    return found | {
        "malignant_ppv": at_prevalence(found["ppv_found"], ill, PREVALENCE),
        "malignant_npv": at_prevalence(found["npv_found"], 1 - ill, 1 - PREVALENCE),
    }


@pytest.mark.parametrize("world", SHORT, ids=str)
def test_intervals_of_a_confusion_matrix(world: World, check: Check) -> None:
    rng, draws, truth = np.random.default_rng(7), repeated(150), truths(world.accuracy)
    held: dict[str, list[bool]] = defaultdict(list)
    for _ in range(draws):
        labels, predictions, owners = answers(rng, world)
        given = confusion_intervals(
            labels, predictions, CLASSES, 0, owners, draws=400, prevalence=PREVALENCE
        )
        ill = float((labels > 0).mean())
        for name, before in (("ppv", ill), ("npv", 1 - ill)):
            after = PREVALENCE if name == "ppv" else 1 - PREVALENCE
            low, high = given[f"malignant_{name}"]
            given[f"{name}_found"] = (
                at_prevalence(low, after, before),
                at_prevalence(high, after, before),
            )
        for name, value in truth.items():
            if name in given:
                held[name].append(given[name][0] <= value <= given[name][1])
    for (text, names), short in zip(FIGURES.items(), SHORT[world], strict=True):
        promise = Promise(f"the 95 % interval of {text} contains the true value", MADE, 0.95)
        worst = min(float(np.mean(held[name])) for name in names)
        check(promise, str(world), worst, short, draws)


def test_wilsons_interval_of_independent_images(check: Check) -> None:
    rng, draws = np.random.default_rng(0), repeated(20_000)
    promise = Promise("Wilson's 95 % interval for independent images", "report", 0.95, "about")
    for n, accuracy in ((736, 0.92), (736, 0.98), (60, 0.9)):
        right, times = np.unique(rng.binomial(n, accuracy, draws), return_counts=True)
        limits = [wilson(int(r), n) for r in right]
        held = [low <= accuracy <= high for low, high in limits]
        measured = float(np.average(held, weights=times))
        check(promise, f"{n} independent, accuracy {accuracy:g}", measured, 0.02, draws)
