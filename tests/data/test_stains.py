"""Amounts of dye, and the transform that changes them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig
from bcd.data.stains import STAINS, restain
from bcd.data.synthetic.smears import draw_smear
from bcd.data.views import Augmenter
from bcd.evaluation.corruptions import hed_jitter


def smear() -> NDArray[np.uint8]:
    return draw_smear("Pre-B", slide=2, index=5, size=64)


def test_unchanged_amounts_give_the_image() -> None:
    pixels = smear()
    assert np.abs(restain(pixels, (1, 1, 1)).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("dye", range(3))
def test_more_of_a_dye_takes_its_light_away_everywhere(dye: int) -> None:
    shifts = 0.2 * np.eye(3)[dye]
    found = restain(smear(), (1, 1, 1), shifts) + 1.0
    expected = (smear() + 1.0) * np.exp(-0.2 * STAINS[dye])
    assert np.abs(found - expected).max() <= 1


def test_twice_the_amounts_square_the_light() -> None:
    found = restain(smear(), (2, 2, 2)) + 1.0
    assert np.abs(found - (smear() + 1.0) ** 2 / 256).max() <= 1


def test_jitter_stays_within_its_strength_and_follows_its_seed() -> None:
    pixels = smear()
    one, same, other = (hed_jitter(pixels, 0.1, np.random.default_rng(s)) for s in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert np.array_equal(hed_jitter(pixels, 0, np.random.default_rng(0)), restain(pixels, [1] * 3))


def test_views_draw_it_anew_for_each_view() -> None:
    node = {"_target_": "bcd.data.transforms.HedJitter", "strength": 0.2, "p": 1.0}
    augmenter = Augmenter(with_defaults(AugmentConfig, views=3, transforms=[node]), seed=0)
    augmenter.check()
    first, again, second = (augmenter(smear(), "aa", view) for view in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second) and not np.array_equal(first, smear())
