"""Confidence intervals: their limits, and unusual data."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from bcd.evaluation.bootstrap import (
    DRAWS,
    cluster,
    degrees_of_freedom,
    effective_groups,
    fill_group_names,
)
from bcd.evaluation.confusion_intervals import confusion_intervals
from bcd.evaluation.intervals import FEW_GROUPS, wilson
from bcd.evaluation.metrics import compute_metrics
from bcd.evaluation.probability_intervals import prepare_areas, probability_intervals
from bcd.reporting.results import few_groups_warning

CLASSES = ("Benign", "Early", "Pre", "Pro")
SHARES = np.array([0.15, 0.3, 0.3, 0.25])

Drawn = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]


def chances(accuracy: float) -> NDArray[np.float64]:
    """Probabilities of each prediction (columns) by class (rows); classes are not equally hard."""
    wrong = (1 - accuracy) * np.linspace(0.5, 1.5, len(SHARES))
    off = (np.ones((4, 4)) - np.eye(4)) / 3
    return np.asarray(off * wrong[:, None] + np.diag(1 - wrong))


def drawn(rng: np.random.Generator, accuracy: float, groups: int | None, n: int = 700) -> Drawn:
    """Images; those of a group, if any, share their class mix and difficulty."""
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


def test_intervals_contain_the_metrics_and_have_their_names() -> None:
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


def test_accuracy_of_independent_images_is_close_to_wilson() -> None:
    labels = np.repeat(np.arange(4), 100)
    predictions = labels.copy()
    predictions[::10] = (labels[::10] + 1) % 4
    given = confusion_intervals(labels, predictions, CLASSES, 0)["accuracy"]
    assert given == pytest.approx(wilson(360, 400), abs=0.003)


def test_an_image_that_is_its_own_group_is_independent() -> None:
    labels, predictions, _ = drawn(np.random.default_rng(1), 0.9, None, 200)
    names = [f"slide {i}" for i in range(200)]
    alone = confusion_intervals(labels, predictions, CLASSES, 0)
    grouped = confusion_intervals(labels, predictions, CLASSES, 0, names)
    for name in ("accuracy", "f1", "mcc", "malignant_sensitivity"):
        assert grouped[name] == pytest.approx(alone[name])


def test_samples_depend_on_the_seed_but_not_on_names_or_order() -> None:
    labels, predictions, owners = drawn(np.random.default_rng(5), 0.9, 20, 300)
    given = confusion_intervals(labels, predictions, CLASSES, 0, owners)
    mixed = np.random.default_rng(0).permutation(len(labels))
    names = [f"slide {99 - owner}" for owner in np.asarray(owners)[mixed]]
    again = confusion_intervals(labels[mixed], predictions[mixed], CLASSES, 0, names)
    assert again == given
    other = confusion_intervals(labels, predictions, CLASSES, 0, owners, seed=1)
    assert other != given
    for name in ("accuracy", "f1", "malignant_ppv"):
        assert other[name] == pytest.approx(given[name], abs=0.015)


def test_each_sample_draws_as_many_groups_as_there_are_with_equal_probability() -> None:
    clusters = cluster(np.zeros(60, int), 1, np.repeat(np.arange(20), 3))
    assert clusters.times.tolist() == [20]  # one kind: twenty groups of three
    clusters = cluster(np.arange(5).repeat([1, 2, 3, 4, 90]), 5, None)
    weights = np.concatenate(list(clusters.draw(DRAWS, 0)))
    assert weights.shape == (DRAWS, 5)
    assert set(weights.sum(axis=1)) == {100.0}
    assert weights.mean(axis=0)[::-1] == pytest.approx([1, 2, 3, 4, 90], abs=0.25)


def test_a_sample_without_a_class_does_not_define_its_mean() -> None:
    # Three groups of one class are missing from many draws; as zeros they would count for much.
    owners = np.repeat(np.arange(12), 20)
    labels = np.repeat(np.arange(3), [60, 80, 100])
    predictions = labels.copy()
    predictions[::20] = 3
    predictions[1::60] = 3
    given = confusion_intervals(labels, predictions, CLASSES, 0, owners)
    assert 0.85 < given["balanced_accuracy"][0] < 0.95
    assert 0.5 < given["sensitivity_by_class"]["Benign"][0] < 0.9


def test_the_interval_is_not_a_point_if_all_samples_agree() -> None:
    owners = np.repeat(np.arange(5), 10)
    labels = np.tile([0, 0, 0, 1, 1, 1, 2, 2, 3, 3], 5)
    predictions = labels.copy()
    predictions[::10] = 1  # the same mistake in each group
    given = confusion_intervals(labels, predictions, CLASSES, 0, owners)
    assert given["accuracy"] == pytest.approx(wilson(0.9 * 5, 5))


def test_images_without_a_group_are_their_own() -> None:
    assert fill_group_names(["", "", ""]) is None
    groups = fill_group_names(["s1", "", "s1", "", "alone 1"])
    assert groups is not None and len(set(groups)) == 4 and groups[0] == groups[2]


def test_many_images_take_little_time_and_memory() -> None:
    import time
    import tracemalloc

    labels, predictions, _ = drawn(np.random.default_rng(0), 0.97, None, 3000)
    confusion_intervals(labels[:9], predictions[:9], CLASSES, 0)  # imports
    tracemalloc.start()
    confusion_intervals(labels, predictions, CLASSES, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    started = time.process_time()
    confusion_intervals(labels, predictions, CLASSES, 0)
    assert time.process_time() - started < 0.5


def test_copies_of_an_image_in_one_group_add_nothing() -> None:
    labels, predictions, _ = drawn(np.random.default_rng(2), 0.9, None, 100)
    once = confusion_intervals(labels, predictions, CLASSES, 0)
    copies = [np.repeat(x, 5) for x in (labels, predictions, np.arange(100))]
    five = confusion_intervals(copies[0], copies[1], CLASSES, 0, copies[2])
    for name in ("accuracy", "balanced_accuracy", "f1", "mcc"):
        assert five[name] == pytest.approx(once[name], abs=0.01)


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


def test_the_interval_is_not_a_point_without_a_correct_prediction() -> None:
    labels = np.repeat(np.arange(4), 50)
    given = confusion_intervals(labels, (labels + 1) % 4, CLASSES, 0)
    assert given["accuracy"] == pytest.approx(wilson(0, 200))


def test_an_unknown_metric_has_the_widest_interval() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    one = confusion_intervals(labels, predicted, CLASSES, 0, ["a"] * 4)
    assert one["accuracy"] == (0.0, 1.0)
    two = confusion_intervals(labels, predicted, CLASSES, 0, ["a", "a", "b", "b"])
    assert two["sensitivity_by_class"]["Benign"] == (0.0, 1.0)  # its only group has a mistake
    assert two["sensitivity_by_class"]["Pro"] is None  # does not occur
    assert "malignant_sensitivity" not in confusion_intervals(labels, predicted, CLASSES, None)


def test_groups_must_match_the_images() -> None:
    with pytest.raises(ValueError, match="group for each"):
        confusion_intervals(np.zeros(3, int), np.zeros(3, int), CLASSES, 0, ["a"])
    with pytest.raises(ValueError, match="images"):
        confusion_intervals(np.zeros(0, int), np.zeros(0, int), CLASSES, 0)


def test_wilson_at_its_extremes() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # a textbook's figures
    assert wilson(5, 10, 0.99)[0] < wilson(5, 10)[0]


@pytest.mark.parametrize("ties", [False, True])
def test_areas_of_a_sample_equal_those_of_repeated_images(ties: bool) -> None:
    rng = np.random.default_rng(3)
    scores, truth = rng.random(90), rng.random(90) < 0.4
    scores = np.round(scores * 8) / 8 if ties else scores
    places = rng.integers(0, 12, 90)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=20).astype(np.float64)
    roc, precision = prepare_areas(scores, truth, places)(weights)
    for row, area, average in zip(weights, roc, precision, strict=True):
        times = row[places]
        assert area == pytest.approx(roc_auc_score(truth, scores, sample_weight=times))
        assert average == pytest.approx(average_precision_score(truth, scores, sample_weight=times))


def test_a_sample_without_a_positive_image_has_no_area() -> None:
    truth = np.array([True, True, False])
    areas = prepare_areas(np.array([0.9, 0.8, 0.7]), truth, np.array([0, 0, 1]))
    roc, precision = areas(np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]]))
    assert roc == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)
    assert precision[0] == 1.0 and np.isnan(precision[1])


def test_figures_without_a_value_have_no_interval() -> None:
    given = probability_intervals(np.full((5, 4), 0.25), np.zeros(5, int), CLASSES)
    for name in ("auroc", "average_precision"):
        assert given[name] is None
        assert given[f"{name}_by_class"] == dict.fromkeys(CLASSES)
    assert 0 <= given["loss"][0] <= given["loss"][1]


def test_predictive_values_for_another_prevalence_lie_in_their_intervals() -> None:
    rng, at = np.random.default_rng(2), 0.01
    for _ in range(20):
        labels = (rng.random(600) < 0.8).astype(np.int64)
        predictions = (rng.random(600) < np.where(labels == 1, 0.9, 0.05)).astype(np.int64)
        given = confusion_intervals(labels, predictions, ("b", "m"), 0, draws=100, prevalence=at)
        figures = compute_metrics(np.eye(2)[predictions], labels, ("b", "m"), 0, prevalence=at)
        for name in ("malignant_ppv", "malignant_npv"):
            assert given[name][0] <= figures[name] <= given[name][1]
    as_found = confusion_intervals(labels, predictions, ("b", "m"), 0)
    same = confusion_intervals(labels, predictions, ("b", "m"), 0, prevalence=labels.mean())
    assert same["malignant_ppv"] == pytest.approx(as_found["malignant_ppv"])
    assert as_found["malignant_ppv"][0] > given["malignant_ppv"][1]  # that of another prevalence


def test_few_groups_come_with_a_warning() -> None:
    enough = {"n_groups": FEW_GROUPS, "effective_groups": float(FEW_GROUPS)}
    for metrics in ({}, {"n_groups": None, "effective_groups": None}, enough):
        assert few_groups_warning(metrics) == ""
    groups = ["a"] * 90 + [f"slide {i}" for i in range(30)]  # many, of which one is nearly all
    few = {"n_groups": len(set(groups)), "effective_groups": effective_groups(groups)}
    assert "31 groups correspond to 1.8 groups of equal size" in few_groups_warning(few)


def test_errors_concentrated_in_few_groups_widen_the_interval() -> None:
    labels, owners = np.tile(np.arange(4), 60), np.repeat(np.arange(12), 20)
    spread, heaped = labels.copy(), labels.copy()
    spread[np.arange(0, 240, 20)[:10] + np.arange(10) % 4] += 1
    heaped[:8], heaped[20:22] = (labels[:8] + 1) % 4, (labels[20:22] + 1) % 4
    few = cluster((heaped == labels).astype(np.int64), 2, owners)
    every = few.codes.sum(axis=1)
    found = degrees_of_freedom(few, lambda w: {"accuracy": (w @ few.codes[:, 1]) / (w @ every)})[
        "accuracy"
    ]
    values = np.bincount(owners, heaped != labels) - (heaped != labels).sum() / 12
    kurtosis = 12 * (values**4).sum() / (values**2).sum() ** 2
    assert found == pytest.approx(2 * 12 / (kurtosis - 1), rel=0.02)
    assert found < 4 < 11
    alone = cluster(labels, 4, None)
    assert degrees_of_freedom(alone, lambda w: {"x": w @ alone.codes[:, 0]})["x"] == np.inf
    low = [confusion_intervals(labels, predicted % 4, CLASSES, 0, owners)["accuracy"][0]
           for predicted in (spread, heaped)]  # fmt: skip
    assert low[1] < low[0] - 0.1
