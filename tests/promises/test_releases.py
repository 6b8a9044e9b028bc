"""A release's reported decisions against the truth, beside those of a single split."""

from __future__ import annotations

import statistics

import pytest

from bench.out_of_fold import REFER, Compared, errors, simulate

SETS = 12


@pytest.fixture(scope="module")
def found() -> dict[str, list[Compared]]:
    return simulate(SETS)


def spread(compared: list[Compared], name: str) -> float:
    return float(statistics.stdev(getattr(c.reported, name) for c in compared))


def mean_off(compared: list[Compared], name: str, wanted: float) -> float:
    """Mean distance of what is true of new slides from what was asked for."""
    return float(statistics.mean(abs(getattr(c.true, name) - wanted) for c in compared))


@pytest.mark.parametrize(("name", "wanted"), [("ece", 0.0), ("coverage", 0.95)])
def test_on_new_slides_a_release_is_closer_to_what_was_asked_for(
    name: str, wanted: float, found: dict[str, list[Compared]]
) -> None:
    single, release = (mean_off(found[kind], name, wanted) for kind in ("single split", "release"))
    assert release < 0.7 * single


@pytest.mark.parametrize("name", ["ece", "referred"])
def test_what_a_release_reports_is_closer_to_the_truth(
    name: str, found: dict[str, list[Compared]]
) -> None:
    single, release = (errors(found[kind], name) for kind in ("single split", "release"))
    assert statistics.mean(release) < statistics.mean(single)


@pytest.mark.parametrize("name", ["ece", "coverage"])
def test_what_a_release_reports_varies_less(name: str, found: dict[str, list[Compared]]) -> None:
    assert spread(found["release"], name) < spread(found["single split"], name)


def test_a_release_refers_about_what_its_budget_allows(found: dict[str, list[Compared]]) -> None:
    share = statistics.mean(c.true.referred for c in found["release"])
    assert share <= REFER
