"""The true cells of a generated smear are those of its image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bcd.data.synthetic.drawing import white_cells
from bcd.data.synthetic.labels import LEAST_VISIBLE, draw_labels
from bcd.data.synthetic.smears import CLASS_NAMES, MORPHOLOGIES, draw_smear, random_of
from bcd.errors import BcdError


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_nuclei_are_the_dark_parts_of_the_image(name: str) -> None:
    for index in range(3):
        where = {"slide": index, "index": index, "seed": 11}
        true = draw_labels(name, **where)
        image = draw_smear(name, **where).astype(float)
        # Nuclei absorb much more green than blue light, and nothing else does.
        light = np.quantile(image, 0.98, axis=(0, 1)) / image
        depth = np.log(light[..., 1] / light[..., 2])
        dark = depth > 0.6 * np.median(depth[true.nuclei])
        assert (dark & true.nuclei).sum() > 0.9 * true.nuclei.sum()
        assert (dark & true.mask).sum() > 0.95 * dark.sum()


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_labels_are_numbered_and_hold_the_nuclei(name: str) -> None:
    true = draw_labels(name, slide=1, index=5, seed=11)
    assert sorted(np.unique(true.labels)) == list(range(true.count + 1))
    assert not (true.nuclei & ~true.mask).any()
    for number in range(1, true.count + 1):
        assert true.nuclei[true.labels == number].any()


def test_another_size_shows_the_same_cells() -> None:
    small, large = (draw_labels("Pre-B", slide=2, index=3, seed=11, size=s) for s in (112, 224))
    assert small.count == large.count
    for low, high in zip(small.centres, large.centres, strict=True):
        assert np.multiply(low, 2) == pytest.approx(high, abs=3)


def test_cells_that_are_hardly_visible_are_left_out() -> None:
    """Of each cell that counts at least a quarter is seen, and of the others less."""
    left_out = 0
    for index in range(40):
        true = draw_labels("Benign", slide=0, index=index, seed=11)
        rng = random_of("Benign", 0, index, 11, 224)
        outlines = [outer for outer, _ in white_cells(rng, 224, MORPHOLOGIES["Benign"])[3]]
        owner = np.zeros((224, 224), np.int32)
        for number, outline in enumerate(outlines, start=1):
            cv2.fillPoly(owner, [np.round(outline).astype(np.int32)], number)
        shares = [
            (owner == number).sum() / cv2.contourArea(outline.astype(np.float32))
            for number, outline in enumerate(outlines, start=1)
        ]
        # The edge is drawn up to a pixel wider here.
        assert sum(share > LEAST_VISIBLE + 0.1 for share in shares) <= true.count
        assert true.count <= sum(share > LEAST_VISIBLE - 0.1 for share in shares)
        left_out += len(outlines) - true.count
    assert left_out > 0


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(BcdError, match="no class 'Pre-C' to draw"):
        draw_labels("Pre-C", slide=0, index=0)
