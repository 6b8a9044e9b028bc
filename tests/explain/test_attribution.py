"""Attributions of every head and way to get an answer, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bcd.config.head import FITTED_HEADS
from bcd.errors import BcdError
from bcd.explain.attribution import explain
from bcd.models.heads.base import FittedHead
from tests.helpers.explaining import (
    CLASSES,
    GRADIENTS,
    METHODS,
    check_maps,
    ensembles,
    made,
    small,
    some,
)
from tests.models.test_models import images


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
