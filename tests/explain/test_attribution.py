"""Attributions of every network, head and way to get an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcd.config.compose import with_defaults
from bcd.config.head import FITTED_HEADS, HeadConfig
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError
from bcd.explain.attribution import Attribution, explain
from bcd.explain.checks import check_randomization
from bcd.explain.layers import find_layers
from bcd.explain.methods import gradcam, log_odds
from bcd.models.backbones.build import build_backbone
from bcd.models.heads.base import FittedHead
from bcd.models.network import SmearNetwork
from tests.helpers.harness import CONF, train_config
from tests.models.test_models import images

MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
GRADIENTS = ("gradcam", "integrated_gradients")
METHODS = (*GRADIENTS, "occlusion")
CLASSES = 4


def side_of(name: str) -> int:
    """A small image's."""
    return 128 if name == "inception_v3" else 64


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


def config_of(name: str) -> ModelConfig:
    words = (f"model={name}", "model.weights=null", f"model.input_size={side_of(name)}")
    return train_config(CONF, *words, "model.unfreeze=0").model


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


@pytest.mark.parametrize("name", MODELS)
def test_every_network_is_explained_and_its_maps_depend_on_its_weights(name: str) -> None:
    cfg = config_of(name)
    network = made(cfg)
    for method, count in zip(GRADIENTS, (4, 1), strict=True):  # few places need more images
        x = images(count, side_of(name))
        found = explain(network, x, method=method, steps=2)
        assert found.method == method
        check_maps(found, x)
        check = check_randomization(network, x, given=found, parts=["all"])
        assert check.passed, check.verdict
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


@pytest.mark.parametrize("kind", ["linear", "mlp", *FITTED_HEADS])
def test_every_head_is_explained(kind: str) -> None:
    cfg = small()
    network, x = made(cfg, kind), images(24, seed=3)
    if isinstance(network.head, FittedHead):
        with torch.no_grad():
            features = network.embed(x).numpy()
        network.head.fit(features, np.arange(24) % CLASSES, False, 0)
    x = x[:6]
    found = explain(network, x)
    assert found.method == ("occlusion" if kind in ("knn", "forest") else "gradcam")
    check_maps(found, x, most_empty=0.5)  # a bias alone may tell the class
    if found.method == "occlusion":
        with pytest.raises(BcdError, match=r"no gradient: set explain=occlusion"):
            explain(network, x, method="integrated_gradients")
    else:
        check_maps(explain(network, x, method="integrated_gradients", steps=3), x, 0.5)


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


@pytest.mark.parametrize("name", ensembles())
def test_the_path_with_gradients_gives_the_networks_answers(name: str) -> None:
    cfg, more = ensembles()[name]
    network, x = made(cfg, **more), some(cfg, 2)
    with torch.no_grad():
        expected = network(x)
    pixels = x.float().requires_grad_()
    given = network.outputs(pixels)[0]
    assert torch.equal(given, expected)
    (gradient,) = torch.autograd.grad(given[:, 0].sum(), pixels)
    assert (gradient != 0).float().mean() > 0.5
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for method in GRADIENTS if network.test_time else METHODS:
        found = explain(network, x, method=method, steps=2)
        assert found.maps.shape[1] == max(view.side for view in cfg.input_views())
        assert not found.empty.any()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(network(x), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_turns_with_an_image_whose_turns_are_averaged(method: str) -> None:
    network, x = made(small(), test_time="d4"), images(1)
    upright = explain(network, x, method=method, steps=2).maps
    turned = explain(network, x.rot90(1, (2, 3)), method=method, steps=2).maps
    np.testing.assert_allclose(turned[0], np.rot90(upright[0]), atol=0.01 * upright.max())
    assert np.abs(turned - upright).max() > 0.1 * upright.max()


@pytest.mark.parametrize("method", METHODS)
def test_equal_members_are_explained_like_one(method: str) -> None:
    one, several = made(small(unfreeze=2)), made(small(unfreeze=2), members=2)
    several.prefix.load_state_dict(one.prefix.state_dict())
    for blocks, head in zip(several.trunk[0].members, several.head.heads, strict=True):
        blocks.load_state_dict(one.trunk.state_dict())
        head.load_state_dict(one.head.state_dict())
    x = images(2)
    expected, given = (explain(n, x, method=method, steps=2).maps for n in (one, several))
    np.testing.assert_allclose(given, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("method", METHODS)
def test_an_input_view_without_weight_takes_no_part(method: str) -> None:
    one, two = made(small()), made(small(views=["plain", "grey@48"]))
    two.prefix.load_state_dict(one.prefix.state_dict())
    with torch.no_grad():
        two.head.weight[:, : one.head.in_features] = one.head.weight
        two.head.weight[:, one.head.in_features :] = 0
        two.head.bias.copy_(one.head.bias)
    x = images(2)
    packed = torch.cat([x.permute(0, 2, 3, 1).flatten(1), images(2, 48, 5).flatten(1)], 1)
    expected, given = (
        explain(n, i, method=method, steps=2).maps for n, i in ((one, x), (two, packed))
    )
    np.testing.assert_allclose(given, expected, atol=1e-4 * expected.max())


def test_each_image_is_explained_alone_and_for_its_own_class() -> None:
    network, x = made(small()), images(3)
    targets = torch.tensor([2, 0, 3])
    for method in METHODS:
        together = explain(network, x, targets, method=method, steps=2)
        assert (together.targets == targets.numpy()).all()
        for i in range(3):
            alone = explain(network, x[i : i + 1], targets[i : i + 1], method=method, steps=2)
            np.testing.assert_allclose(together.maps[i], alone.maps[0], atol=1e-5)
        others = explain(network, x, (targets + 1) % CLASSES, method=method, steps=2)
        assert np.abs(others.maps - together.maps).max() > 0.1 * together.maps.max()


def test_a_network_that_is_sure_is_explained_no_less() -> None:
    network, x = made(small(), classes=2), images(2)
    expected = {method: explain(network, x, method=method, steps=2) for method in METHODS}
    with torch.no_grad():
        network.head.weight *= 1e4
        network.head.bias *= 1e4
        assert (network(x).softmax(1).max(1).values == 1).all()
    for method, before in expected.items():
        after = explain(network, x, method=method, steps=2)
        np.testing.assert_allclose(after.maps, before.maps, atol=1e-3 * before.maps.max())


def test_an_answer_without_evidence_has_an_empty_map() -> None:
    network, x = made(small()), images(2)
    with torch.no_grad():
        network.head.weight.zero_()
    for method in METHODS:
        found = explain(network, x, method=method, steps=2)
        assert found.empty.all()
        assert not found.maps.any()
