"""Recalibration from a few labels of another site, against computations by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.errors import BcdError
from bcd.evaluation.answers import Answers, softmax
from bcd.evaluation.calibration import fit_temperature
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.recalibration import (
    FOLDS,
    check_labels,
    cross_fit,
    deal_folds,
    decision_metrics,
    possible_classes,
    refit,
)
from bcd.evaluation.thresholds import Scope

BENIGN, K = 0, 3
POLICY = DecisionPolicy(
    temperature=1.5, malignant_threshold=0.5, benign=BENIGN, confidence_threshold=0.6,
    set_threshold=0.1, population="val", n_units=7,
)  # fmt: skip


def site(n: int, seed: int, coarse: bool = True, factor: float = 4.0) -> Answers:
    """Outputs that are `factor` times too large: a temperature of `factor` is the right one."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, K))
    drawn = (rng.random(n)[:, None] > softmax(logits).cumsum(axis=1)).sum(axis=1)
    labels = np.where((drawn != BENIGN) & coarse, K, drawn).astype(np.int64)
    return Answers((factor * logits).astype(np.float32), np.zeros((n, 2), np.float32), labels)


def grid_temperature(local: Answers, weight: float, around: float) -> float:
    """The best of many temperatures, with the likelihood of benign and malignant written out."""
    grid = np.exp(np.linspace(np.log(0.2), np.log(15), 4000))
    costs = []
    for t in grid:
        p = softmax(np.asarray(local.logits, np.float64) / t)
        likely = np.where(local.labels == BENIGN, p[:, BENIGN], p[:, 1:].sum(axis=1))
        prior = (np.log(t) - np.log(around)) ** 2 / (2 * 0.3**2)
        costs.append(-weight * np.log(likely).mean() + prior)
    return float(grid[np.argmin(costs)])


def test_a_malignant_image_may_be_of_any_class_but_the_benign_one() -> None:
    found = possible_classes(np.array([0, 2, K]), K, BENIGN)
    assert found.tolist() == [[True, False, False], [False, False, True], [False, True, True]]


@pytest.mark.parametrize("groups", [None, [f"g{i // 5}" for i in range(60)]])
def test_temperature_and_threshold_equal_a_computation_by_hand(groups: list[str] | None) -> None:
    local = site(60, 1)
    new = refit(POLICY, local, BENIGN, Scope(groups, "the site"))
    weight = 60 if groups is None else 12
    assert new.temperature == pytest.approx(grid_temperature(local, weight, 1.5), rel=2e-3)
    malignant = local.labels != BENIGN
    scores = 1 - softmax(local.logits / new.temperature)[:, BENIGN]
    # Too few for 99.5 %, so the lowest malignant score, at most 0.5; it guarantees 0.1^(1/n).
    n = malignant.sum() if groups is None else len(set(np.array(groups)[malignant]))
    assert new.malignant_threshold == pytest.approx(min(scores[malignant].min(), 0.5))
    assert new.guaranteed_sensitivity == pytest.approx(0.1 ** (1 / n))
    assert (new.n_malignant_units, new.n_units) == (n, 60 if groups is None else 12)
    assert (new.population, new.by_groups) == ("the site", groups is not None)
    assert new.confidence_threshold == POLICY.confidence_threshold


def test_the_prior_of_the_temperature_is_around_the_previous_one() -> None:
    nothing = np.zeros((0, K)), np.zeros(0, np.int64)
    assert fit_temperature(*nothing, around=2.5) == 2.5
    same = np.zeros((4, K))  # says nothing about the temperature
    assert fit_temperature(same, np.zeros(4, np.int64), around=2.5) == pytest.approx(2.5, rel=1e-3)


def test_prediction_sets_hold_every_class_unless_all_labels_are_classes() -> None:
    new = refit(POLICY, site(60, 2), BENIGN, Scope(None, ""))
    assert (new.set_threshold, new.guaranteed_coverage) == (0.0, 1.0)
    named = site(60, 2, coarse=False)
    new = refit(POLICY, named, BENIGN, Scope(None, ""))
    true = softmax(named.logits / new.temperature)[np.arange(60), named.labels]
    assert new.set_threshold == pytest.approx(np.sort(true)[int(0.05 * 61) - 1])
    assert new.guaranteed_coverage == pytest.approx(0.95)


def test_cross_fitting_answers_each_image_without_its_group() -> None:
    local, groups = site(80, 3), [f"g{i // 4}" for i in range(80)]
    scope = Scope(groups, "")
    crossed = cross_fit(POLICY, local, BENIGN, scope)
    folds = deal_folds(local.labels != BENIGN, groups)
    assert all(len(set(folds[i : i + 4])) == 1 for i in range(0, 80, 4))
    for fold in range(FOLDS):
        rest, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        others = Answers(local.logits[rest], local.descriptors[rest], local.labels[rest])
        new = refit(POLICY, others, BENIGN, Scope([groups[i] for i in rest], ""))
        expected = softmax(local.logits[out] / new.temperature)
        assert crossed.probabilities[out] == pytest.approx(expected)
        assert new.malignant_threshold is not None
        called = 1 - expected[:, BENIGN] >= new.malignant_threshold
        assert [crossed.malignant[i] for i in out] == called.tolist()
        low = expected.max(axis=1) < POLICY.confidence_threshold
        assert ["low confidence" in crossed.reasons[i] for i in out] == low.tolist()


def test_labels_of_a_fold_do_not_change_its_answers() -> None:
    local = site(60, 4)
    folds = deal_folds(local.labels != BENIGN, None)
    first = np.flatnonzero(folds == 0)
    before = cross_fit(POLICY, local, BENIGN, Scope(None, "")).probabilities[first]
    # Outputs of the same kind, so that the folds stay the same.
    changed = local.logits.copy()
    changed[first] *= 3
    other = Answers(changed, local.descriptors, local.labels)
    rest = cross_fit(POLICY, other, BENIGN, Scope(None, ""))
    again = softmax(np.log(before) * 3)
    assert rest.probabilities[first] == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize("benign", [5, 6, 30])
@pytest.mark.parametrize("mixed", [0, 1, 5])
def test_no_fold_holds_all_groups_of_a_kind(benign: int, mixed: int) -> None:
    kinds = ["b"] * (benign - mixed) + ["m"] * (11 - mixed) + ["bm"] * mixed
    truth = np.array([letter == "m" for kind in kinds for letter in kind])
    groups = [f"{i}" for i, kind in enumerate(kinds) for _ in kind]
    folds = deal_folds(truth, groups)
    for fold in range(FOLDS):
        left = truth[folds != fold]
        assert left.any() and not left.all()


def labelled(malignant: int, benign: int) -> NDArray[np.bool_]:
    return np.repeat([True, False], [malignant, benign])


def test_too_few_labels_are_refused() -> None:
    check_labels(labelled(11, 5), Scope(None, ""), 0.8, 0.9)
    for malignant, benign in ((10, 5), (11, 4)):
        with pytest.raises(BcdError, match=r"takes 11 malignant and 5 benign images: label more"):
            check_labels(labelled(malignant, benign), Scope(None, ""), 0.8, 0.9)
    groups = [f"g{i // 2}" for i in range(16)]
    with pytest.raises(BcdError, match="6 malignant and 3 benign groups are labelled"):
        check_labels(labelled(11, 5), Scope(groups, ""), 0.8, 0.9)


@pytest.mark.parametrize(("malignant", "missing"), [(0, "malignant"), (20, "benign")])
def test_labels_of_one_kind_are_refused(malignant: int, missing: str) -> None:
    with pytest.raises(BcdError, match=f"no {missing} images among the 20 labels"):
        check_labels(labelled(malignant, 20 - malignant), Scope(None, ""), 0.8, 0.9)


def test_metrics_of_decisions_equal_a_computation_by_hand() -> None:
    local = site(50, 5)
    decisions = POLICY.answer(local.logits, local.descriptors)
    truth = local.labels != BENIGN
    found = decision_metrics(decisions, truth, BENIGN, None)
    p = softmax(local.logits / POLICY.temperature)
    called = 1 - p[:, BENIGN] >= 0.5
    refer = (p.max(axis=1) < 0.6) | (called != (p.argmax(axis=1) != BENIGN))
    at = found["at_threshold"]
    assert at["malignant_sensitivity"] == pytest.approx(called[truth].mean())
    assert at["malignant_specificity"] == pytest.approx((~called)[~truth].mean())
    assert found["referred"] == pytest.approx(refer.mean())
    assert found["unsafe_malignant"] == pytest.approx((~called & ~refer)[truth].mean())
    assert found["unsafe_benign"] == pytest.approx((called & ~refer)[~truth].mean())
