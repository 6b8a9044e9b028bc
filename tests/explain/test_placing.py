"""Attributions in the frame of the image: the inverse of how images get into a network."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bcd.data.matching import Match
from bcd.data.reading import prepare
from bcd.explain.placing import density_in_image

SIDE = 64


@pytest.mark.parametrize("scale", [None, 1.0, 1.7, 0.6])
@pytest.mark.parametrize("shape", [(200, 320), (48, 40)])
def test_a_bright_spot_is_found_where_the_image_has_it(
    scale: float | None, shape: tuple[int, int]
) -> None:
    rows, columns = shape
    image = np.zeros((rows, columns, 3), np.uint8)
    place = (round(0.6 * columns), round(0.4 * rows))
    cv2.circle(image, place, rows // 10, (255, 255, 255), -1)
    match = None if scale is None else Match(scale, None)
    got = prepare(image, SIDE, False) if match is None else match.prepare(image, SIDE, False)
    density = density_in_image(got[..., 0].astype(np.float32), rows, columns, match)
    assert density.shape == shape and density.min() >= 0
    assert density.mean() == pytest.approx(1)
    ys, xs = np.indices(shape)
    total = density.sum()
    found = (density * xs).sum() / total, (density * ys).sum() / total
    assert np.hypot(found[0] - place[0], found[1] - place[1]) < 0.05 * max(shape)


def test_what_a_match_cut_off_has_no_evidence() -> None:
    density = density_in_image(np.ones((SIDE, SIDE), np.float32), 100, 100, Match(2.0, None))
    inside = np.zeros((100, 100), bool)
    inside[25:75, 25:75] = True
    assert np.array_equal(density > 0, inside)
    assert density[inside] == pytest.approx(4)


def test_no_evidence_stays_none() -> None:
    assert not density_in_image(np.zeros((SIDE, SIDE), np.float32), 10, 20).any()
