"""Occlusion of models of which only the answers are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcd.config.input_views import CELLS, MASKED, InputView
from bcd.data.input_views import packed_shape, split_described, views_to_read
from bcd.data.items import Wanted
from bcd.data.roi import cell_boxes
from bcd.data.synthetic.smears import CLASS_NAMES, draw_smear
from bcd.evaluation.decision import Decisions
from bcd.explain.overlay import top_pixels
from bcd.inference.model import ModelFacts
from bcd.inference.occlusion import occlusion

Pixels = NDArray[np.uint8]
SIDE, SIGN = 96, 24
GREEN = (30, 90, 60)


class Seeing:
    """Its log-odds of the second class are what a function sees in what the network gets."""

    device, threads, batch = "cpu", 2, 4

    def __init__(self, views: tuple[InputView, ...], sees: Callable[[Pixels], float]) -> None:
        self.facts = ModelFacts(list(CLASS_NAMES), 0, views, False, None, None, True, "")
        self._sees = sees
        self.asked = 0

    def answer(self, packed: Pixels) -> Decisions:
        self.asked += len(packed)
        assert packed.shape[1:] == packed_shape(views_to_read(self.facts.input_views))
        got = split_described(packed, self.facts.input_views)[1]
        logits = np.zeros((len(packed), len(CLASS_NAMES)))
        logits[:, 1] = [self._sees(one) for one in got]
        odds = np.exp(logits)
        n = len(packed)
        probabilities = odds / odds.sum(1, keepdims=True)
        return Decisions(probabilities, [None] * n, [()] * n, probabilities > 0.5, np.zeros(n))

    def read(self, image: Pixels) -> Pixels:
        return Wanted(views_to_read(self.facts.input_views), False).pack(image)


def planted(top: int, left: int) -> tuple[Pixels, NDArray[np.bool_]]:
    image = draw_smear("Benign", slide=1, index=3, size=SIDE)
    place = np.zeros((SIDE, SIDE), bool)
    place[top : top + SIGN, left : left + SIGN] = True
    image[place] = GREEN
    return image, place


def greenness(pixels: Pixels) -> float:
    """30 where the whole sign is seen: probabilities are then 1 to the last digit but one."""
    seen = np.abs(pixels.astype(int) - GREEN).sum(-1) < 40
    return 30 * float(seen.mean()) * SIDE**2 / SIGN**2


@pytest.mark.parametrize(("top", "left"), [(0, 0), (30, 50), (SIDE - SIGN, SIDE - SIGN)])
def test_the_evidence_is_where_the_sign_is(top: int, left: int) -> None:
    image, place = planted(top, left)
    model = Seeing((InputView("plain", SIDE),), greenness)
    found = occlusion(model, model.read(image), 1)
    assert found.shape == (SIDE, SIDE) and found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-5)
    tops = top_pixels(found)
    assert (tops & place).sum() / tops.sum() > 0.9
    assert found[place].sum() > 5 * place.mean()
    assert model.asked < 80  # each takes 10 ms in a MobileNetV2
    against = occlusion(model, model.read(image), 0)
    assert against[place].sum() < 0.1 * max(against.sum(), 1e-9) or not against.any()


def test_the_same_place_is_covered_in_every_view() -> None:
    image, place = planted(10, 60)
    views = (InputView("plain", 32), InputView("plain", SIDE))

    def of_each(packed: Pixels) -> list[float]:
        small, large = packed[: 3 * 32**2], packed[3 * 32**2 :]
        return [greenness(small.reshape(32, 32, 3)), greenness(large.reshape(SIDE, SIDE, 3))]

    model = Seeing(views, lambda packed: sum(of_each(packed)) / 2)
    tops = top_pixels(occlusion(model, model.read(image), 1))
    assert (tops & place).sum() / tops.sum() > 0.9
    # What is seen in either view can be covered only in both.
    either = Seeing(views, lambda packed: max(of_each(packed)))
    assert occlusion(either, either.read(image), 1)[place].sum() > 5 * place.mean()


def test_only_what_the_network_gets_is_covered() -> None:
    image, _ = planted(40, 8)
    model = Seeing((InputView("plain", SIDE, MASKED),), lambda _: 2.0)
    before = model.read(image)
    kept = before.copy()
    assert not occlusion(model, before, 1).any()
    assert (before == kept).all()


def test_cells_are_left_out_one_by_one() -> None:
    image = draw_smear("Pro-B", slide=2, index=5, size=224)
    boxes = cell_boxes(image)
    assert len(boxes) > 1
    view = InputView("plain", 64, CELLS, 224)
    chosen, size = 1, 3 * 64**2

    def sees(packed: Any) -> float:
        crops = packed[3 * 224**2 :]
        return 5.0 if crops[chosen * size : (chosen + 1) * size].any() else 0.0

    model = Seeing((view,), sees)
    found = occlusion(model, model.read(image), 1)
    top, left, own = boxes[chosen]
    assert found.shape == (224, 224)
    assert found[top : top + own, left : left + own].sum() > 0.7
    empty = np.full((224, 224, 3), 230, np.uint8)
    assert not occlusion(model, model.read(empty), 1).any()
