"""Probes leave out missing values, and their findings are computed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from bcd.audit.probes import (
    ProbeScore,
    SkippedProbe,
    fit_indices,
    load_or_compute,
    regress_out_colour,
    score_probe,
)
from bcd.audit.shortcuts import (
    NETWORK,
    WITHOUT_COLOUR,
    check_shortcuts,
    shortcut_lines,
    without_cells,
)
from bcd.audit.sources import BACKGROUND, COLOUR
from bcd.data.catalog import Catalog
from bcd.data.splits.split import Split
from tests.helpers.noise import made_up_catalog


def halves(catalog: Catalog) -> Split:
    return Split(tuple(("train", "test")[i % 2] for i in range(len(catalog.images))))


def scored(source: str, value: float, split: str = "grouped", left_out: int = 0) -> ProbeScore:
    return ProbeScore(source, split, value, value, "Pre-B", 0.9, 100, 0.25, left_out)


def test_images_without_values_are_left_out_and_counted() -> None:
    catalog = made_up_catalog([40, 40])
    values = np.asarray(catalog.labels, np.float32)[:, None] + np.zeros((1, 3), np.float32)
    values[[1, 3, 41, 0]] = np.nan  # three of test, one of train
    found = score_probe(BACKGROUND, values, catalog, halves(catalog), "csv")
    assert isinstance(found, ProbeScore)
    assert (found.n, found.left_out, found.balanced_accuracy, found.chance) == (37, 3, 1.0, 0.5)
    (check,) = check_shortcuts([found])
    assert "3 of 40 left out" in check.finding


def test_a_probe_with_too_few_values_is_skipped_with_a_reason() -> None:
    catalog = made_up_catalog([40, 40])
    values = np.ones((80, 3), np.float32)
    values[1:24:2] = np.nan  # 12 of the 20 test images of one class
    found = score_probe(BACKGROUND, values, catalog, halves(catalog), "csv")
    assert found == SkippedProbe(BACKGROUND, "csv", "only 8 of 20 class0 in test have values")
    (check,) = check_shortcuts([found])
    assert (check.status, check.facts["scores"]) == ("WARN", [])
    assert check.finding == f"not measured on the csv split: {found.reason}"
    (line,) = shortcut_lines([check], 0.9, "0.900")
    assert check.finding in line


def test_scores_and_reasons_are_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path))
    catalog = made_up_catalog([4, 4])
    for made in (scored(COLOUR, 0.6), SkippedProbe(BACKGROUND, "csv", "few")):
        asked = [made]
        first = load_or_compute(catalog, halves(catalog), made.source, asked.pop)
        again = load_or_compute(catalog, halves(catalog), made.source, asked.pop)
        assert first == again == made


@pytest.mark.parametrize(("network", "share"), [(0.85, 60), (0.95, 51), (0.55, 120)])
def test_the_share_reached_without_cells_is_computed(network: float, share: int) -> None:
    background = scored(BACKGROUND, 0.61)
    assert f"so {share}% of the network's balanced accuracy above chance (25.0%)" in without_cells(
        background, network
    )
    (check,) = check_shortcuts([background], [scored(NETWORK, network)])
    assert without_cells(background, network) in check.finding
    (line,) = shortcut_lines([check], network, f"{network:.3f}")
    assert without_cells(background, network) in line
    # Of sources that hold cells nothing of the kind is predicted.
    (colour,) = check_shortcuts([scored(COLOUR, 0.61)], [scored(NETWORK, network)])
    assert "without seeing" not in colour.finding + shortcut_lines([colour], network, "")[0]


def test_no_share_is_given_for_a_network_at_chance() -> None:
    assert "not above chance" in without_cells(scored(BACKGROUND, 0.6), 0.25)


@pytest.mark.parametrize(
    ("left", "full", "status", "reported"),
    [
        (0.50, 0.95, "WARN", "36% of the excess over chance"),
        (0.90, 0.95, "PASS", "93% of the excess over chance"),
        (0.20, 0.95, "WARN", "0% of the excess over chance"),
        (0.30, 0.25, "WARN", "not above chance"),
    ],
)
def test_the_share_that_remains_without_colour_is_computed(
    left: float, full: float, status: str, reported: str
) -> None:
    network = [scored(NETWORK, full), scored(WITHOUT_COLOUR, left)]
    network += [replace(s, split="stratified", balanced_accuracy=0.9) for s in network]
    (check,) = check_shortcuts([], network)
    assert (check.name, check.status) == ("network without colour", status)
    assert reported in check.finding
    assert "100% of the excess over chance" in check.finding
    assert check.facts["scores"] == [asdict(s) for s in network]


@pytest.mark.parametrize("stained", [True, False])
def test_what_colour_predicts_is_regressed_out_and_the_rest_remains(stained: bool) -> None:
    catalog = made_up_catalog([200, 200])
    split, labels = halves(catalog), np.asarray(catalog.labels)
    rng = np.random.default_rng(0)
    colours = rng.normal(100, 20, (400, 4)).astype(np.float32)
    colours[:, 0] += 60 * labels * stained
    seen = (colours @ rng.normal(size=(4, 12)) + rng.normal(size=(400, 12))).astype(np.float32)
    shape = (labels[:, None] + rng.normal(0, 0.2, (400, 2))).astype(np.float32)

    def probed(features: np.ndarray) -> float:
        found = score_probe(NETWORK, features, catalog, split, "csv", linear=True)
        assert isinstance(found, ProbeScore)
        return found.balanced_accuracy

    learnt = fit_indices(split)
    both = np.hstack([seen, shape])
    if not stained:
        assert probed(regress_out_colour(both, colours, learnt)) > 0.95
        return
    assert probed(seen) > 0.85
    assert probed(regress_out_colour(seen, colours, learnt)) < 0.6
    # Where colour tells the class, shape loses what both tell: the score is no measure of shape.
    assert probed(regress_out_colour(both, colours, learnt)) < probed(shape) - 0.1


def test_the_regression_does_not_use_the_test_set() -> None:
    catalog = made_up_catalog([20, 20])
    split = halves(catalog)
    rng = np.random.default_rng(0)
    colours, features = (rng.normal(size=(40, d)).astype(np.float32) for d in (3, 5))
    learnt, tested = fit_indices(split), split.indices("test")
    before = regress_out_colour(features, colours, learnt)
    features[tested] += 100
    colours[tested] *= 3
    after = regress_out_colour(features, colours, learnt)
    np.testing.assert_array_equal(after[learnt], before[learnt])
