"""Alarms are as rare as stated where nothing has changed, and come where something has."""

from __future__ import annotations

import pytest

from bcd.serving.monitoring.drift import DISTANCES, REFERRAL
from tests.promises.stating import Check, Promise, repeated
from tests.serving.monitoring.answers import (
    Sizes,
    Source,
    equal,
    few_huge,
    lognormal,
    small_and_large,
)

MADE = "serving.md, drift.py, dashboard"
WINDOW, SHARE = 200, 0.01


def rates(
    source: Source, val: int, windows: int, times: float = 1.0, shift: float = 0.0,
    share: float = SHARE, size: int = WINDOW,
) -> tuple[float, float, float]:  # fmt: skip
    """Shares of windows with any alarm, of referral and of distances, each with its own val."""
    found = [0, 0, 0]
    for _ in range(windows):
        alarms = source.window(source.val(val), size, share, times, shift).alarms
        for place, yes in enumerate((bool(alarms), REFERRAL in alarms, DISTANCES in alarms)):
            found[place] += yes
    return found[0] / windows, found[1] / windows, found[2] / windows


@pytest.mark.parametrize(
    ("val", "referred"), [(150, 0.0), (150, 0.02), (150, 0.1), (1000, 0.02), (1000, 0.3)]
)
def test_unchanged_independent_images(val: int, referred: float, check: Check) -> None:
    draws, share = repeated(200), 0.05  # larger than the default, so that it is measured sooner
    promise = Promise(
        "a window sets off an alarm although nothing has changed", MADE, share, "at most"
    )
    measured = rates(Source(1, referred), val, draws, share=share)[0]
    check(promise, f"{WINDOW} images, {val} in val, {referred:.0%} referred", measured, 0.0, draws)


@pytest.mark.parametrize(
    ("name", "sizes", "icc"),
    [
        (" of 20 images", equal(20), 0.6),
        (" of unequal sizes (logarithms: 1)", lognormal, 0.3),
        (", half of 1 to 3 images, half of 50 to 100", small_and_large, 0.3),
        (" of 5 images, every tenth of 200", few_huge, 0.3),
    ],
)
def test_unchanged_images_of_cases(name: str, sizes: Sizes, icc: float, check: Check) -> None:
    draws, cases = repeated(60), 50  # fewer cases than by default, for speed
    text = "a window of correlated images sets off an alarm although nothing has changed"
    measured = rates(Source(2, 0.1, icc, sizes), 1000, draws, size=cases)[0]
    promise = Promise(text, MADE, SHARE, "at most")
    check(promise, f"{cases} cases{name}, ICC {icc}", measured, 0.0, draws)


@pytest.mark.parametrize(
    ("referred", "times", "val", "promised"),
    [
        (0.05, 2.0, 1000, 0.25),
        (0.05, 3.0, 1000, 0.85),
        (0.1, 2.0, 1000, 0.75),
        (0.1, 2.0, 150, 0.25),
    ],
)
def test_a_change_of_referral(
    referred: float, times: float, val: int, promised: float, check: Check
) -> None:
    draws = repeated(80)
    text = f"a share of false alarms of {SHARE:.0%}: one window shows a change of referral"
    case = f"{WINDOW} images, {val} in val, {referred:.0%} to {times * referred:.0%} referred"
    measured = rates(Source(4, referred), val, draws, times=times)[1]
    check(Promise(text, MADE, promised), case, measured, 0.0, draws)


@pytest.mark.parametrize(("val", "promised"), [(1000, 0.95), (150, 0.8)])
def test_a_shift_of_distances(val: int, promised: float, check: Check) -> None:
    draws = repeated(80)
    text = f"a share of false alarms of {SHARE:.0%}: one window shows shifted distances"
    case = f"{WINDOW} images, {val} in val, shift of half a standard deviation"
    measured = rates(Source(5, 0.0), val, draws, shift=0.5)[2]
    check(Promise(text, MADE, promised), case, measured, 0.0, draws)
