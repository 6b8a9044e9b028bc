"""Two versions of a model on one set: intervals, and limits that few images never meet."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bcd.config.compose import with_defaults
from bcd.config.reference import ChangeLimits
from bcd.evaluation.bootstrap import effective_groups
from bcd.evaluation.intervals import tango, wilson
from bcd.evaluation.model_change import (
    EXCEEDED,
    MET,
    NO_ANSWER,
    TRAINED,
    UNDECIDED,
    Answers,
    ModelChange,
    compare_versions,
    paired_shares,
)
from bcd.evaluation.predictions import Prediction

CLASSES = ["Benign", "Pre-B"]


def limits(**changes: Any) -> ChangeLimits:
    return with_defaults(ChangeLimits, **changes)


def answers(p_benign: list[float], labels: list[str], refer: set[int] = frozenset()) -> Answers:  # type: ignore[assignment]
    rows = [
        Prediction("", "", () if p < 0 else (p, 1 - p), refer=("why",) * (place in refer),
                   error="torn" * (p < 0))
        for place, p in enumerate(p_benign)
    ]  # fmt: skip
    return Answers.of(rows, labels, CLASSES, CLASSES[0])


def change(old: list[float], new: list[float], labels: list[str], **more: Any) -> ModelChange:
    malignant = np.array([name != CLASSES[0] for name in labels])
    first, second = (answers(p, labels, more.pop(k, set())) for p, k in ((old, "a"), (new, "b")))
    return compare_versions(first, second, malignant, more.pop("groups", None), limits(**more))


def results(found: ModelChange) -> dict[str, str]:
    return {check.name: check.result for check in found.checks}


def test_tangos_interval_is_the_published_one() -> None:
    # Tango 1998, table II: 12 and 2 of 50 images changed.
    assert tango(12, 2, 50) == pytest.approx((0.061, 0.345), abs=5e-4)
    assert tango(2, 12, 50) == pytest.approx((-0.345, -0.061), abs=5e-4)


@pytest.mark.parametrize("n", [1, 30, 5000])
def test_without_a_change_the_interval_is_that_of_no_event(n: int) -> None:
    low, high = tango(0, 0, n)
    assert (-low, high) == pytest.approx((wilson(0, n)[1],) * 2)
    assert tango(n, 0, n)[1] == 1 == -tango(0, n, n)[0]


@pytest.mark.parametrize("n, gain, loss", [(100, 0.02, 0.02), (300, 0, 0.01), (1000, 0.002, 0.002)])
def test_a_loss_is_missed_in_few_sets(n: int, gain: float, loss: float) -> None:
    """One side of a 95 % interval: a loss as large as the limit is let through in about 2.5 %."""
    rng = np.random.default_rng(n)
    known = cache(lambda gained, lost: tango(gained, lost, n))
    draws = rng.multinomial(n, [gain, loss, 1 - gain - loss], 4000)
    let_through = np.mean([known(int(g), int(k))[0] > gain - loss for g, k, _ in draws])
    assert let_through < 0.035


@pytest.mark.parametrize("groups, size", [(10, 100), (5, 200), (200, 5)])
def test_few_groups_exclude_no_more_than_few_images(groups: int, size: int) -> None:
    """However few images change; and a version that loses more never looks better."""
    n = groups * size
    owners = np.repeat(np.arange(groups), size).tolist()
    lows = []
    for lost in (0, 1, 2, 5, size, 2 * size):
        new = [0.9] * n
        new[:lost] = [0.1] * lost
        share = change([0.9] * n, new, CLASSES[:1] * n, groups=owners).shares[0]
        assert (share.name, share.trials) == ("accuracy", groups)
        assert share.difference.value == -lost / n
        lows.append(share.difference.low)
    assert -lows[0] == pytest.approx(wilson(0, groups)[1])
    assert lows == sorted(lows, reverse=True)
    assert lows[-1] == pytest.approx(tango(0, 2, groups)[0])


# How often a loss as large as the limit is missed, at most; docs/change-control.md says the same.
MISSED = {"whole": 0.04, "and images": 0.04, "overdispersed": 0.04, "and gained": 0.04,
          "in the largest": 0.1}  # fmt: skip


@pytest.mark.parametrize("kind", MISSED)
@pytest.mark.parametrize("g, limit", [(12, 0.3), (60, 0.1), (250, 0.02)])
def test_a_loss_of_groups_is_missed_in_few_sets(g: int, limit: float, kind: str) -> None:
    """A loss as large as the limit, by groups of equal and of unequal size."""
    rng = np.random.default_rng(g)
    let_through = []
    for uneven in np.repeat([0, 0.5], 300):
        sizes = np.ceil(20 * rng.lognormal(0, uneven, g)).astype(int)
        drawn = rng.random(g)
        share, gained = (drawn < limit).astype(float), drawn > 1  # none
        if kind == "and images":  # a tenth of the loss is in the other groups, image by image
            share = np.where(drawn < 0.9 * limit, 1, 0.1 * limit / (1 - 0.9 * limit))
        elif kind == "overdispersed":
            share = rng.beta(0.2 * limit, 0.2 * (1 - limit), g)
        elif kind == "and gained":
            share, gained = (drawn < 2 * limit).astype(float), drawn > 1 - limit
        elif kind == "in the largest":  # tenth of the groups, and in no other
            large = sizes >= np.sort(sizes)[-max(g // 10, 4)]
            share = large * (drawn < limit * sizes.sum() / sizes[large].sum())
        owners = np.repeat(np.arange(g), sizes)
        lost = rng.random(len(owners)) < share[owners]
        found = paired_shares(~gained[owners], ~lost, effective_groups(owners) or 0)
        let_through.append(found.low > -limit)
    assert np.mean(let_through) < MISSED[kind]


def test_many_images_without_a_change_meet_the_limits() -> None:
    labels = CLASSES * 500
    p = [0.9, 0.1] * 500
    found = change(p, p, labels)
    assert set(results(found).values()) == {MET}
    assert found.go_on
    assert found.changed == []
    assert found.largest == 0


def test_few_images_without_a_change_exclude_no_loss() -> None:
    labels = CLASSES * 20
    found = change([0.9, 0.1] * 20, [0.9, 0.1] * 20, labels)
    assert results(found)["loss of accuracy"] == UNDECIDED
    assert not found.go_on
    needed = {check.name: check.needed for check in found.checks if check.trials is not None}
    assert needed["loss of accuracy"] == 189
    for n, result in ((188, UNDECIDED), (189, MET)):
        p = [0.9] * n
        assert results(change(p, p, CLASSES[:1] * n))["loss of accuracy"] == result


def test_a_version_that_was_trained_on_the_set_is_stopped() -> None:
    p, labels = [0.9, 0.1] * 500, CLASSES * 500
    for trained, go_on in ((None, True), (0, True), (1, False)):
        same = answers(p, labels)
        malignant = np.array([name != CLASSES[0] for name in labels])
        found = compare_versions(same, same, malignant, None, limits(), trained)
        assert found.go_on is go_on
        assert (TRAINED in results(found)) is (trained is not None)


def test_a_newly_unsafe_image_stops_and_a_referred_one_does_not() -> None:
    labels, old = CLASSES * 500, [0.9, 0.1] * 500
    new = [*old[:-1], 0.8]  # the last, malignant one is called benign
    unsafe = change(old, new, labels)
    assert results(unsafe)["newly unsafe malignant images"] == EXCEEDED
    assert unsafe.newly_unsafe == unsafe.changed == [999]
    assert not unsafe.go_on
    assert unsafe.moved["Pre-B", "Benign"] == 1
    referred = change(old, new, labels, b={999})
    assert referred.newly_unsafe == []
    assert referred.go_on
    assert change(old, new, labels, newly_unsafe=1).go_on


def test_a_large_loss_exceeds_its_limit() -> None:
    labels, old = CLASSES * 500, [0.9, 0.1] * 500
    worse = [0.1] * 40 + old[40:]  # 20 benign images are called malignant
    found = change(old, worse, labels)
    assert results(found)["loss of accuracy"] == EXCEEDED
    assert results(found)["loss of sensitivity"] == MET
    share = {one.name: one for one in found.shares}["specificity"]
    assert share.difference.value == pytest.approx(-20 / 500)


def test_more_referral_exceeds_its_limit() -> None:
    labels, old = CLASSES * 500, [0.9, 0.1] * 500
    assert results(change(old, old, labels, b=set(range(60))))["rise of referral"] == EXCEEDED


def test_much_less_referral_exceeds_its_limit() -> None:
    """Referral is all that protects from images unlike those of the set."""
    labels, old = CLASSES * 500, [0.9, 0.1] * 500
    for before, result in ((20, MET), (48, UNDECIDED), (60, EXCEEDED)):
        found = change(old, old, labels, a=set(range(before)))
        assert results(found)["fall of referral"] == result
        assert results(found)["rise of referral"] == MET


def test_an_image_without_an_answer_is_wrong_and_referred() -> None:
    labels, old = CLASSES * 500, [0.9, 0.1] * 500
    found = change(old, [-1.0, *old[1:]], labels)
    shares = {one.name: one.difference.value for one in found.shares}
    assert shares["accuracy"] == pytest.approx(-1 / 1000)
    assert shares["referred"] == pytest.approx(1 / 1000)
    assert found.moved["Benign", NO_ANSWER] == 1


def test_without_malignant_images_sensitivity_is_unknown() -> None:
    labels = CLASSES[:1] * 1000
    found = change([0.9] * 1000, [0.9] * 1000, labels)
    assert results(found)["loss of sensitivity"] == UNDECIDED
    assert {check.name: check.found for check in found.checks}["loss of sensitivity"] is None
    assert not found.go_on
