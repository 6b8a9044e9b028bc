"""Checks of maps, and how maps are drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bcd.explain import checks
from bcd.explain.attribution import Attribution
from bcd.explain.checks import check_randomization, mass_by_region, rank_correlation
from bcd.explain.overlay import draw_overlay, top_pixels
from tests.helpers.explaining import made, small
from tests.models.test_models import images


def test_shares_of_regions_are_those_counted_by_hand() -> None:
    first = np.zeros((10, 10), np.float32)
    first[:2, :5] = 0.08  # ten pixels, 80 % of the evidence
    first[9] = 0.02  # less, so that it is not among the top 5 %
    second = np.zeros((10, 10), np.float32)
    second[5, 5] = 1
    cells = np.zeros((10, 10), dtype=bool)
    cells[:2] = True
    corner = np.zeros((10, 10), dtype=bool)
    corner[5:, 5:] = True
    regions = [{"cells": cells}, {"cells": ~cells, "corner": corner}, {"cells": cells}]
    maps = np.stack([first, second, np.zeros_like(first)])
    found = mass_by_region(maps, regions)
    assert found["cells"].mass == pytest.approx((0.8 + 1) / 2)
    assert found["cells"].area == pytest.approx((0.2 + 0.8) / 2)
    assert found["cells"].ratio == pytest.approx(0.9 / 0.5)
    assert found["cells"].top == pytest.approx(1)
    assert found["corner"].mass == pytest.approx(0.5)  # the first image has none
    assert found["corner"].ratio == pytest.approx(0.5 / 0.125)
    assert mass_by_region(maps[2:], regions[2:]) == {}
    nowhere = mass_by_region(maps[:1], [{"bar": np.zeros_like(cells)}])["bar"]
    assert (nowhere.mass, nowhere.ratio) == (0, None)


def test_the_top_pixels_are_the_highest_and_as_many_as_asked() -> None:
    values = np.random.default_rng(0).random((16, 25)).astype(np.float32)
    top = top_pixels(values, 0.05)
    assert top.sum() == 20
    assert values[top].min() > values[~top].max()
    assert top_pixels(np.ones((10, 10), np.float32), 0.05).sum() == 5
    values[:, 2:] = 0
    assert top_pixels(values, 0.5).sum() == 32


def test_the_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 8, 8)).astype(np.float32)
    b[b < 0.3] = 0  # ties
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, a) == pytest.approx(1)
    assert rank_correlation(a, np.zeros_like(a)) == 0


def test_maps_that_do_not_depend_on_the_weights_fail_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def edges(_: object, x: torch.Tensor, *__: object, method: str = "edges") -> Attribution:
        found = [cv2.Laplacian(one[0].float().numpy(), cv2.CV_32F) for one in x]
        maps = np.abs(np.stack(found)) + 1e-3
        return Attribution(maps, np.zeros(len(x), np.int64), method)

    def inverted(_: object, x: torch.Tensor, *__: object, method: str = "edges") -> Attribution:
        own = edges(_, x)
        return Attribution(own.maps.max() - own.maps, own.targets, method)

    def nothing(_: object, x: torch.Tensor, *__: object, method: str = "none") -> Attribution:
        own = edges(_, x)
        return Attribution(own.maps * 0, own.targets, method)

    network, x = made(small()), images(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    passed = check_randomization(network, x, "gradcam")
    assert passed.passed
    assert [stage.part for stage in passed.stages] == list(checks.PARTS)
    again = check_randomization(network, x, "gradcam")
    assert again == passed  # the seed decides
    assert "with all its weights randomized" in passed.verdict
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    head = check_randomization(network, x, "gradcam", parts=["head"])
    assert head.stages == passed.stages[:1]
    assert "the weights of its head randomized" in head.verdict
    monkeypatch.setattr(checks, "explain", nothing)
    unknown = check_randomization(network, x)
    assert not (unknown.passed or unknown.conclusive)
    assert unknown.stages[-1].compared == 0
    assert "could not be checked" in unknown.verdict
    monkeypatch.setattr(checks, "explain", inverted)
    assert not check_randomization(network, x, given=edges(None, x)).passed
    monkeypatch.setattr(checks, "explain", edges)
    failed = check_randomization(network, x)
    assert not failed.passed
    assert failed.stages[-1].rank_correlation == pytest.approx(1)
    assert failed.stages[-1].ssim == pytest.approx(1)
    assert "is still 1.00" in failed.verdict
    assert "Do not read them as reasons" in failed.verdict


def test_an_overlay_changes_the_image_only_where_there_is_evidence() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    kept, values = image.copy(), np.zeros((60, 80), np.float32)
    assert (draw_overlay(image, values) == image).all()
    values[20:30, 30:50] = 1
    values[25:28, 40:44] = 2
    drawn = draw_overlay(image, values)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == kept).all()
    outside = cv2.dilate(values, np.ones((5, 5), np.uint8)) == 0  # beyond the line around it
    assert (drawn[outside] == image[outside]).all()
    assert (drawn[~outside] != image[~outside]).any(axis=1).mean() > 0.9
    middle = drawn[26, 42].astype(int)
    assert middle[:2].min() > middle[2]  # yellow
    larger = draw_overlay(cv2.resize(image, (160, 120)), values)  # type: ignore[arg-type]
    assert larger.shape == (120, 160, 3)
