"""Drawn smears of one class with a sign at a known place, which alone tells the class."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.input_views import InputView
from bcd.config.schema import ModelConfig
from bcd.data.synthetic.smears import draw_smear
from bcd.evaluation.decision import Decisions
from bcd.explain.attribution import explain
from bcd.explain.checks import MOST_SIMILAR, check_randomization
from bcd.explain.overlay import top_pixels
from bcd.inference.model import ModelFacts
from bcd.inference.occlusion import occlusion
from bcd.models.backbones.build import build_backbone
from bcd.models.heads.base import FittedHead
from bcd.models.heads.factory import make_head
from bcd.models.network import SmearNetwork

SIDE, SIGN = 96, 28
KINDS = 3


def sign(kind: int) -> NDArray[np.uint8]:
    """A dark disc, ring or cross (SIGN, SIGN), 255 where it is."""
    drawn, middle = np.zeros((SIGN, SIGN), np.uint8), SIGN // 2
    if kind == 2:
        cv2.line(drawn, (3, 3), (SIGN - 4, SIGN - 4), 255, 7)
        cv2.line(drawn, (3, SIGN - 4), (SIGN - 4, 3), 255, 7)
    else:
        cv2.circle(drawn, (middle, middle), middle - 3, 255, -1 if kind == 0 else 4)
    return drawn


@dataclass
class Planted:
    images: Tensor
    labels: Tensor
    places: NDArray[np.bool_]


def planted(count: int, seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    bases = [draw_smear("Benign", slide=i % 4, index=i, seed=seed, size=SIDE) for i in range(24)]
    images = np.stack([bases[i % 24] for i in range(count)])
    labels = rng.permutation(np.arange(count) % KINDS)
    places = np.zeros((count, SIDE, SIDE), dtype=bool)
    for image, label, place in zip(images, labels, places, strict=True):
        top, left = rng.integers(0, SIDE - SIGN, 2)
        square = image[top : top + SIGN, left : left + SIGN]
        square[:] = (225, 215, 90)
        square[sign(int(label)) > 0] = (30, 90, 60)
        place[top : top + SIGN, left : left + SIGN] = True
    return Planted(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), places)


def fitted(seen: Planted) -> SmearNetwork:
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=SIDE,
                        unfreeze="all", batchnorm="trained")  # fmt: skip
    torch.manual_seed(0)
    network = SmearNetwork(build_backbone(cfg), KINDS, cfg).train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(9):
        order = torch.randperm(len(seen.labels))
        for first in range(0, len(order), 16):
            part = order[first : first + 16]
            loss: Any = nn.functional.cross_entropy(network(seen.images[part]), seen.labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def share_on_signs(network: SmearNetwork, new: Planted, method: str) -> float:
    """Mean share of the top 5 % of the pixels that are on the sign."""
    found = explain(network, new.images, method=method)
    assert found.method == method
    assert not found.empty.any()
    tops = [top_pixels(values) for values in found.maps]
    shares = [(top & place).sum() / top.sum() for top, place in zip(tops, new.places, strict=True)]
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def network() -> SmearNetwork:
    return fitted(planted(180, seed=1))


@pytest.fixture(scope="module")
def new() -> Planted:
    """Images that it was not fitted to, on slides of another seed."""
    return planted(30, seed=2)


def test_the_evidence_is_where_the_sign_is(network: SmearNetwork, new: Planted) -> None:
    assert new.places.mean() >= 0.05
    with torch.no_grad():
        right = network(new.images).argmax(1) == new.labels
    assert right.float().mean() > 0.9
    for method in ("gradcam", "integrated_gradients"):
        share = share_on_signs(network, new, method)
        assert share >= 0.7, method


def test_the_maps_depend_on_what_was_learned(network: SmearNetwork, new: Planted) -> None:
    for method in ("gradcam", "integrated_gradients"):
        check = check_randomization(network, new.images, method, parts=["all"])
        (stage,) = check.stages
        # With random weights, many images have no evidence for the class at all.
        assert stage.compared > 3
        assert stage.rank_correlation <= MOST_SIMILAR, check.verdict


class Answers:
    """The network as a model of which only the answers are known."""

    device, threads, batch = "cpu", 2, 4
    facts = ModelFacts(["a", "b", "c"], 0, (InputView("plain", SIDE),), False, None, None, True, "")

    def __init__(self, network: SmearNetwork) -> None:
        self._network = network

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        with torch.inference_mode():
            outputs = self._network(torch.from_numpy(packed).permute(0, 3, 1, 2)).double()
        found, n = outputs.softmax(1).numpy(), len(packed)
        return Decisions(found, [None] * n, [()] * n, found > 0.5, np.zeros(n))


def test_answers_alone_show_where_the_sign_is(network: SmearNetwork, new: Planted) -> None:
    shares = []
    for image, label, place in list(zip(new.images, new.labels, new.places, strict=True))[:10]:
        packed = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        top = top_pixels(occlusion(Answers(network), packed, int(label)))
        shares.append((top & place).sum() / top.sum())
    assert np.mean(shares) >= 0.7, shares


@pytest.mark.parametrize("kind", ["forest", "knn"])
def test_a_head_without_gradient_is_explained_by_occlusion(
    kind: str, network: SmearNetwork, new: Planted
) -> None:
    seen = planted(60, seed=3)
    fixed = copy.deepcopy(network)
    with torch.no_grad():
        features = fixed.embed(seen.images).numpy()
    head = make_head(features.shape[1], KINDS, with_defaults(HeadConfig, kind=kind, trees=50))
    assert isinstance(head, FittedHead)
    head.fit(features, seen.labels.numpy(), False, 0)
    fixed.head = head
    few = Planted(new.images[:6], new.labels[:6], new.places[:6])
    with torch.no_grad():
        assert (fixed(few.images).argmax(1) == few.labels).all()
    assert explain(fixed, few.images[:1]).method == "occlusion"
    assert share_on_signs(fixed, few, "occlusion") >= 0.7
