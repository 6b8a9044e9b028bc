"""Small networks of random weights whose answers are explained, and what all maps have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.explain.attribution import Attribution
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from tests.models.test_models import images

GRADIENTS = ("gradcam", "integrated_gradients")
METHODS = (*GRADIENTS, "occlusion")
CLASSES = 4


def made(cfg: ModelConfig, head: str = "linear", classes: int = CLASSES, **more: Any) -> Any:
    """A network of random weights that tells images apart."""
    torch.manual_seed(0)
    network = SmearNetwork(
        build_backbone(cfg), classes, cfg, with_defaults(HeadConfig, kind=head), **more
    )
    lively(network, cfg)
    return network.eval()


def lively(network: SmearNetwork, cfg: ModelConfig) -> None:
    """Gives every BatchNorm the statistics of its own input, and the linear head large weights."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network.embed(some(cfg, 6, seed=9))
    network.eval()
    if isinstance(network.head, nn.Linear):
        with torch.no_grad():
            features = network.embed(some(cfg, 6, seed=9))
            network.head.weight /= features.std() * network.head.weight.std()
            network.head.bias.copy_(-network.head(features.mean(0)) + network.head.bias)


def some(cfg: ModelConfig, count: int, seed: int = 0) -> Tensor:
    """Inputs of a network, of one or several input views."""
    views = [images(count, view.side, seed) for view in cfg.input_views()]
    if len(views) == 1:
        return views[0]
    return torch.cat([view.permute(0, 2, 3, 1).flatten(1) for view in views], 1)


def small(**settings: Any) -> ModelConfig:
    given = {"backbone": "cnn", "weights": None, "input_size": 64, **settings}
    return with_defaults(ModelConfig, **given)


def check_maps(found: Attribution, x: Tensor, most_empty: float = 0) -> None:
    side = x.shape[2]
    assert found.maps.shape == (len(x), side, side)
    assert found.maps.dtype == np.float32
    assert np.isfinite(found.maps).all()
    assert (found.maps >= 0).all()
    assert found.empty.mean() <= most_empty
    maps = found.maps[~found.empty]
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-4)
    assert (maps.std(axis=(1, 2)) > 0.02 * maps.mean(axis=(1, 2))).all()


def ensembles() -> dict[str, tuple[ModelConfig, dict[str, Any]]]:
    """Networks with several input views, test-time views or members."""
    return {
        "one": (small(), {}),
        "views": (small(views=["plain", "grey@48", "plain@96"]), {}),
        "members": (small(), {"members": 3}),
        "trained members": (small(unfreeze=2), {"members": 3}),
        **{kind: (small(), {"test_time": kind}) for kind in ("d4", "flips", "scales")},
        "members and d4": (small(unfreeze="all"), {"members": 2, "test_time": "d4"}),
        "fused": (small(backbone="hybrid", backbones=["resnet18", "alexnet"]), {}),
    }
