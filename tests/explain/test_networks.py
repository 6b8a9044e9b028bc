"""Grad-CAM and integrated gradients of every network, and the layers they look at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bcd.config.schema import ModelConfig
from bcd.errors import BcdError
from bcd.explain.attribution import Attribution, explain
from bcd.explain.checks import check_randomization
from bcd.explain.layers import find_layers
from bcd.explain.methods import gradcam, log_odds
from tests.helpers.choosing import LARGE, exhaustive_if
from tests.helpers.explaining import (
    GRADIENTS,
    check_maps,
    ensembles,
    made,
    small,
)
from tests.helpers.harness import CONF, train_config
from tests.models.test_models import images

MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def side_of(name: str) -> int:
    """A small image's."""
    return 128 if name == "inception_v3" else 64


def config_of(name: str) -> ModelConfig:
    words = (f"model={name}", "model.weights=null", f"model.input_size={side_of(name)}")
    return train_config(CONF, *words, "model.unfreeze=0").model


@pytest.mark.parametrize("name", exhaustive_if(LARGE.__contains__, MODELS))
def test_every_network_is_explained_and_its_maps_depend_on_its_weights(name: str) -> None:
    cfg = config_of(name)
    network = made(cfg)
    for method, count in zip(GRADIENTS, (4, 1), strict=True):  # few places need more images
        x = images(count, side_of(name))
        found = explain(network, x, method=method, steps=2)
        assert found.method == method
        check_maps(found, x)
        check = check_randomization(network, x, given=found, parts=["all"])
        (stage,) = check.stages
        assert not stage.compared or stage.rank_correlation < 0.9, check.verdict
        with torch.no_grad():
            assert (found.targets == network(x).argmax(1).numpy()).all()


@pytest.mark.parametrize(
    ("name", "unfreeze"),
    [("mobilenet_v2", 1), ("mobilenet_v2", "all"), ("test_vit", 1), ("resnet10t", "all")],
)
def test_maps_are_the_same_whichever_blocks_are_trained(name: str, unfreeze: int | str) -> None:
    library = "torchvision" if name == "mobilenet_v2" else "timm"
    pytest.importorskip(library)
    x = images(1)
    settings = {"backbone": name, "library": library}
    frozen, trained = (made(small(**settings, unfreeze=blocks)) for blocks in (0, unfreeze))
    for method in GRADIENTS:
        expected, given = (explain(n, x, method=method, steps=2) for n in (frozen, trained))
        assert rank(given, expected) > 0.999
        np.testing.assert_allclose(given.maps, expected.maps, atol=2e-2 * expected.maps.max())
    assert all(parameter.grad is None for parameter in trained.parameters())


def rank(a: Attribution, b: Attribution) -> float:
    return float(np.corrcoef(a.maps.ravel(), b.maps.ravel())[0, 1])


def test_gradcam_is_captums_where_a_layer_is_called_once() -> None:
    from captum.attr import LayerGradCam

    network, x = made(small()), images(3).float()
    (layer,) = find_layers(network, x[:1])
    targets = torch.tensor([0, 2, 1])
    own = gradcam(network, x, targets, [layer])
    forward = LayerGradCam(lambda pixels: log_odds(network, pixels, targets), layer)
    theirs = forward.attribute(x.requires_grad_())
    larger = nn.functional.interpolate(theirs.detach(), (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(own, larger * theirs[0].numel() / 64**2)


def test_a_transformer_is_explained_where_its_patches_still_count() -> None:
    pytest.importorskip("timm")
    network = made(small(backbone="test_vit", library="timm"))
    (layer,) = find_layers(network, images(1).float())
    assert layer is network.prefix.blocks[-2]  # after the last block only the class token counts


def test_fused_networks_have_a_layer_each_and_their_maps_are_added() -> None:
    cfg, _ = ensembles()["fused"]
    network, x = made(cfg), images(2).float()
    layers = find_layers(network, x[:1])
    targets = torch.zeros(2, dtype=torch.long)
    assert len(layers) == 2
    both, first, second = (
        gradcam(network, x, targets, some) for some in (layers, layers[:1], layers[1:])
    )
    torch.testing.assert_close(both, first + second)


@pytest.mark.parametrize(
    ("name", "side", "found"),
    [("test_vit", 64, 1), ("swin_tiny_patch4_window7_224", 64, 1), ("crossvit_9_240", 240, 0),
     ("deit_tiny_distilled_patch16_224", 64, 1)],
)  # fmt: skip
def test_networks_of_timm_without_maps_get_integrated_gradients(
    name: str, side: int, found: int
) -> None:
    pytest.importorskip("timm")
    network, x = made(small(backbone=name, library="timm", input_size=side)), images(1, side)
    assert len(find_layers(network, x.float())) == found
    if found:
        check_maps(explain(network, x, method="gradcam"), x)
        return
    assert explain(network, x, steps=1).method == "integrated_gradients"
    with pytest.raises(BcdError, match=r"explain=gradcam: .*set explain=integrated_gradients"):
        explain(network, x, method="gradcam")
