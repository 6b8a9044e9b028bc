"""Attributions of answers that are pooled over white cells."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.data.input_views import cut_rois, make_views
from bcd.data.roi import cell_boxes
from bcd.data.synthetic.smears import draw_smear
from bcd.errors import BcdError
from bcd.explain.attribution import check_method, explain
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork

SIDE = 112


@cache
def made(pooling: str) -> SmearNetwork:
    cfg = with_defaults(
        ModelConfig, backbone="cnn", weights=None, input_size=SIDE, roi="cells",
        cell_pooling=pooling,
    )  # fmt: skip
    torch.manual_seed(0)
    return SmearNetwork(build_backbone(cfg), 3, cfg).eval()


def packed(network: SmearNetwork) -> tuple[Tensor, list[NDArray[np.uint8]]]:
    """Two smears, and an image without cells between them."""
    shown = [draw_smear("Pro-B", slide=1, index=i, size=SIDE) for i in range(2)]
    shown.insert(1, np.full((SIDE, SIDE, 3), 235, np.uint8))
    views = network.prefix.views
    parts = [make_views(cut_rois({SIDE: image}, views), views)[0] for image in shown]
    return torch.from_numpy(np.stack(parts)), shown


@pytest.mark.parametrize("pooling", ["mean", "noisy_or", "attention"])
def test_the_evidence_lies_in_the_windows_of_cells(pooling: str) -> None:
    network = made(pooling)
    x, shown = packed(network)
    found = explain(network, x, torch.tensor([0, 1, 2]))
    assert (found.method, found.maps.shape) == ("gradcam", (3, SIDE, SIDE))
    assert np.isfinite(found.maps).all()
    assert found.empty[1]
    for values, image in zip(found.maps[[0, 2]], (shown[0], shown[2]), strict=True):
        inside = np.zeros((SIDE, SIDE), bool)
        for top, left, side in cell_boxes(image):
            inside[top : top + side, left : left + side] = True
        assert 0.1 < inside.mean() < 0.98
        assert values[~inside].sum() == 0
        assert values.sum() in (0, pytest.approx(1, abs=1e-3))
    assert not found.empty[[0, 2]].all()


def test_a_map_does_not_depend_on_the_other_images_of_a_batch() -> None:
    network = made("attention")
    x, _ = packed(network)
    first = explain(network, x[:1], torch.tensor([0])).maps
    again = explain(network, x[[0, 2]], torch.tensor([0, 0])).maps
    np.testing.assert_allclose(first[0], again[0], atol=1e-6)


def test_only_gradcam_explains_cells() -> None:
    with pytest.raises(BcdError, match="only gradcam"):
        check_method(made("mean"), "occlusion")


def test_no_image_with_cells_is_no_evidence() -> None:
    network = made("mean")
    x, _ = packed(network)
    found = explain(network, x[1:2])
    assert found.empty.all()
