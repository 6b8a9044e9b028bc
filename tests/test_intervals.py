"""The intervals: do they hold the truth as often as they say, and what of awkward data?"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from bcd.evaluation.intervals import confusion_intervals, wilson
from bcd.evaluation.metrics import compute_metrics, matrix_figures
from bcd.evaluation.probability_intervals import auroc_without, probability_intervals

CLASSES = ("Benign", "Early", "Pre", "Pro")
SHARES = np.array([0.15, 0.3, 0.3, 0.25])

Answered = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64] | None]
Drawn = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]


def chances(accuracy: float) -> NDArray[np.float64]:
    """What is said (columns) of each class (rows), where classes are not equally hard."""
    wrong = (1 - accuracy) * np.linspace(0.5, 1.5, len(SHARES))
    off = (np.ones((4, 4)) - np.eye(4)) / 3
    return np.asarray(off * wrong[:, None] + np.diag(1 - wrong))


def drawn(rng: np.random.Generator, accuracy: float, groups: int | None, n: int = 700) -> Drawn:
    """Pictures; those of a group, if there are any, share their class mix and their difficulty."""
    table = chances(accuracy)
    if groups is None:
        labels = rng.choice(4, size=n, p=SHARES)
        edges = table.cumsum(axis=1)[labels]
        return labels, (rng.random(n)[:, None] > edges[:, :-1]).sum(axis=1), None
    weights = rng.lognormal(sigma=0.7, size=groups)
    sizes = np.maximum((n * weights / weights.sum()).astype(int), 1)
    parts = []
    for number, size in enumerate(sizes):
        counts = rng.multinomial(size, rng.dirichlet(4 * SHARES))
        hard = [
            rng.multinomial(c, rng.dirichlet(9 * row)) for c, row in zip(counts, table, strict=True)
        ]
        cells = np.repeat(np.arange(16), np.ravel(hard))
        parts.append(np.stack([cells // 4, cells % 4, np.full(len(cells), number)]))
    labels, predictions, owners = np.concatenate(parts, axis=1)
    return labels, predictions, owners


@pytest.mark.parametrize(
    ("accuracy", "groups"), [(0.9, None), (0.97, None), (0.9, 40), (0.97, 25)], ids=str
)
def test_95_per_cent_intervals_hold_the_truth_in_about_95_per_cent(
    accuracy: float, groups: int | None
) -> None:
    rng = np.random.default_rng(7)
    truth = matrix_figures(SHARES[:, None] * chances(accuracy))
    held = []
    for _ in range(500):
        labels, predictions, owners = drawn(rng, accuracy, groups)
        given = confusion_intervals(labels, predictions, CLASSES, 0, owners)
        held.append([given[n][0] <= truth[n] <= given[n][1] for n in ("accuracy", "f1")])
    assert np.all(np.abs(np.mean(held, axis=0) - 0.945) <= 0.025), np.mean(held, axis=0)


def test_intervals_lie_around_the_figures_and_have_their_names() -> None:
    rng = np.random.default_rng(0)
    labels, predictions, owners = drawn(rng, 0.8, 30)
    probabilities = np.eye(4)[predictions] * 0.6 + 0.1
    figures = compute_metrics(probabilities, labels, CLASSES, 0)
    given = confusion_intervals(labels, predictions, CLASSES, 0, owners)
    given |= probability_intervals(probabilities, labels, CLASSES, owners)
    assert given.keys() <= figures.keys()
    for name, interval in given.items():
        pairs = interval if isinstance(interval, dict) else {"": interval}
        values = figures[name] if isinstance(interval, dict) else {"": figures[name]}
        for key, (low, high) in pairs.items():
            assert low < values[key] < high, (name, key)


def test_accuracy_of_independent_pictures_is_close_to_wilson() -> None:
    labels = np.repeat(np.arange(4), 100)
    predictions = labels.copy()
    predictions[::10] = (labels[::10] + 1) % 4
    given = confusion_intervals(labels, predictions, CLASSES, 0)["accuracy"]
    assert given == pytest.approx(wilson(360, 400), abs=0.003)


def test_a_picture_that_is_its_own_group_is_an_independent_one() -> None:
    labels, predictions, _ = drawn(np.random.default_rng(1), 0.9, None, 200)
    names = [f"slide {i}" for i in range(200)]
    alone = confusion_intervals(labels, predictions, CLASSES, 0)
    grouped = confusion_intervals(labels, predictions, CLASSES, 0, names)
    for name in ("accuracy", "f1", "mcc", "malignant_sensitivity"):
        assert grouped[name] == pytest.approx(alone[name])


def test_copies_of_a_picture_in_one_group_add_nothing() -> None:
    labels, predictions, _ = drawn(np.random.default_rng(2), 0.9, None, 100)
    once = confusion_intervals(labels, predictions, CLASSES, 0)
    copies = [np.repeat(x, 5) for x in (labels, predictions, np.arange(100))]
    five = confusion_intervals(copies[0], copies[1], CLASSES, 0, copies[2])
    for name in ("accuracy", "balanced_accuracy", "f1", "mcc"):
        assert five[name] == pytest.approx(once[name])


def test_without_a_mistake_the_interval_is_not_a_point() -> None:
    labels = np.repeat(np.arange(4), 50)
    alone = confusion_intervals(labels, labels, CLASSES, 0)
    assert alone["accuracy"] == pytest.approx(wilson(200, 200))
    assert alone["sensitivity_by_class"]["Pre"] == pytest.approx(wilson(50, 50))
    # The mean over classes is no surer than a class of 50 is.
    assert alone["f1"] == pytest.approx(wilson(50, 50))
    grouped = confusion_intervals(labels, labels, CLASSES, 0, np.arange(200) % 20)
    assert grouped["accuracy"] == pytest.approx(wilson(20, 20))
    assert alone["mcc"][0] < alone["f1"][0] < alone["mcc"][1] == 1.0


def test_without_a_hit_the_interval_is_not_a_point() -> None:
    labels = np.repeat(np.arange(4), 50)
    given = confusion_intervals(labels, (labels + 1) % 4, CLASSES, 0)
    assert given["accuracy"] == pytest.approx(wilson(0, 200))


def test_what_cannot_be_known_is_anything() -> None:
    labels, said = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    one = confusion_intervals(labels, said, CLASSES, 0, ["a"] * 4)
    assert one["accuracy"] == (0.0, 1.0)
    two = confusion_intervals(labels, said, CLASSES, 0, ["a", "a", "b", "b"])
    assert two["sensitivity_by_class"]["Benign"] == (0.0, 1.0)  # its only group has a mistake
    assert two["sensitivity_by_class"]["Pro"] == (0.0, 1.0)  # does not occur
    assert "malignant_sensitivity" not in confusion_intervals(labels, said, CLASSES, None)


def test_a_group_for_each_picture_or_none() -> None:
    with pytest.raises(ValueError, match="group for each"):
        confusion_intervals(np.zeros(3, int), np.zeros(3, int), CLASSES, 0, ["a"])
    with pytest.raises(ValueError, match="pictures"):
        confusion_intervals(np.zeros(0, int), np.zeros(0, int), CLASSES, 0)


def test_wilson_knows_its_ends() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # a textbook's figures
    assert wilson(5, 10, 0.99)[0] < wilson(5, 10)[0]


def test_the_area_without_each_group_is_what_is_left_when_it_is_taken_away() -> None:
    rng = np.random.default_rng(3)
    scores, truth = rng.integers(0, 8, 90) / 8, rng.random(90) < 0.4  # with ties
    places = rng.integers(0, 12, 90)
    places[:12] = np.arange(12)
    area, without = auroc_without(scores, truth, places)
    assert area == pytest.approx(roc_auc_score(truth, scores))
    for group in range(12):
        rest = places != group
        assert without[group] == pytest.approx(roc_auc_score(truth[rest], scores[rest]))


@pytest.mark.parametrize("groups", [None, 30])
def test_intervals_of_probabilities_hold_the_truth(groups: int | None) -> None:
    rng = np.random.default_rng(4)

    def sample(n: int, count: int | None) -> Answered:
        owners = np.arange(n) if count is None else rng.integers(0, count, n)
        skill = 1.5 + (0.0 if count is None else 0.5) * rng.normal(size=owners.max() + 1)
        labels = rng.choice(4, size=n, p=SHARES)
        logits = rng.normal(size=(n, 4))
        logits[np.arange(n), labels] += skill[owners]
        odds = np.exp(2 * logits)  # too sure of itself, so that there is an error to find
        return odds / odds.sum(axis=1, keepdims=True), labels, None if count is None else owners

    names = ("auroc", "loss", "brier", "ece")
    probabilities, labels, _ = sample(100_000, groups and 10_000)
    truth = compute_metrics(probabilities, labels, CLASSES, 0)
    held = []
    for _ in range(200):
        probabilities, labels, owners = sample(600, groups)
        given = probability_intervals(probabilities, labels, CLASSES, owners)
        held.append([given[n][0] <= truth[n] <= given[n][1] for n in names])
    # 200 draws of a chance of 0.95 stray by 0.015 (one standard deviation).
    assert np.all(np.mean(held, axis=0) > 0.9), dict(zip(names, np.mean(held, axis=0), strict=True))


def test_figures_without_a_value_have_no_interval() -> None:
    given = probability_intervals(np.full((5, 4), 0.25), np.zeros(5, int), CLASSES)
    assert given["auroc"] is None
    assert set(given["auroc_by_class"].values()) == {None}
    assert 0 <= given["loss"][0] <= given["loss"][1]
