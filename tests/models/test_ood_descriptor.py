"""Descriptors for out-of-distribution detection: what they are, and that training keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import Permute

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, ModelConfig
from bcd.data.load import load_catalog
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.features.describe import describe
from bcd.inference.checkpoint import load_checkpoint
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from bcd.models.ood_descriptor import OodDescriptor
from bcd.training.run import train
from tests.helpers.harness import SMALL, train_config

CPU = torch.device("cpu")


def images(n: int, size: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8))


def network(**changed: Any) -> SmearNetwork:
    cfg = with_defaults(ModelConfig, **{"weights": None, "input_size": 64, **changed})
    return SmearNetwork(build_backbone(cfg), 4, cfg).eval()


def test_it_is_the_mean_and_deviation_of_blocks_on_the_image_at_half_its_size() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(10)))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    found = OodDescriptor(blocks, mean, std, 16, 0)
    assert found.depths == (3, 5, 6) and found.features == 18
    x = images(4, 16)
    small = x.float().view(4, 3, 8, 2, 8, 2).mean((3, 5)) / 255
    y = (small - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = []
    with torch.no_grad():
        for number, block in enumerate(blocks):
            y = block(y)
            if number in found.depths:
                expected += [y.mean((2, 3)), y.std((2, 3), correction=0)]
    np.testing.assert_allclose(found(x).numpy(), torch.cat(expected, 1).numpy(), atol=1e-5)


def test_its_blocks_are_shared_where_they_are_never_trained_and_copied_elsewhere() -> None:
    made = network(backbone="mobilenet_v2", unfreeze=6)
    own = [*made.descriptor.blocks]
    assert made.descriptor.depths == (6, 10, 13)
    assert all(a is b for a, b in zip(own[:13], made.prefix.blocks, strict=True))
    assert own[13] is not made.trunk[0]
    assert not any(p.requires_grad for p in made.descriptor.parameters())
    before = made.descriptor(images(2, 64))
    with torch.no_grad():
        for parameter in made.trunk.parameters():
            parameter.mul_(3)
    torch.testing.assert_close(made.descriptor(images(2, 64)), before, rtol=0, atol=0)


@pytest.mark.parametrize("named", ["cnn", "mobilenet_v2", "alexnet", "vit_b_16", "densenet121"])
def test_backbones_of_every_kind_have_one(named: str) -> None:
    size = 224 if named == "vit_b_16" else 64
    made = network(backbone=named, input_size=size)
    found = made.descriptor(images(2, size))
    assert found.shape == (2, made.descriptor.features)
    assert torch.isfinite(found).all()
    assert (found[0] != found[1]).any()
    assert made.descriptor.halved == (named != "vit_b_16")  # its positions are for one size


def test_channels_may_be_last() -> None:
    """As in some of timm's transformers."""
    first = nn.Conv2d(3, 5, 3)
    last = nn.Sequential(first, Permute([0, 2, 3, 1]))
    x = images(2, 16)
    usual, other = (
        OodDescriptor(nn.Sequential(block), (0.5,) * 3, (0.5,) * 3, 16, 1)
        for block in (first, last)
    )
    torch.testing.assert_close(usual(x), other(x))


def test_of_several_views_the_first_is_described() -> None:
    torch.manual_seed(0)
    plain = network(backbone="cnn", views=["plain"])
    torch.manual_seed(0)
    several = network(backbone="cnn", views=["plain", "grey"])
    x = images(3, 64)
    grey = torch.zeros(3, 64 * 64 * 3, dtype=torch.uint8)
    packed = torch.cat([x.permute(0, 2, 3, 1).reshape(3, -1), grey], 1)
    torch.testing.assert_close(several.descriptor(packed), plain.descriptor(x))


def test_training_and_augmentation_leave_the_detector_as_it_is(tmp_path: Path) -> None:
    found = []
    for name, overrides in {
        "frozen": ("model.unfreeze=0", "augment=none"),
        "trained": ("model.unfreeze=all", "augment=stains", "trainer.max_epochs=3"),
        "without a bank": ("model.unfreeze=2", "augment=paper", "features=off"),
    }.items():
        run = tmp_path / name
        train(train_config(run, *SMALL, f"data.root={tmp_path / 'images'}", *overrides))
        made, card = load_checkpoint(run / "checkpoints" / "best.ckpt")
        assert card.policy is not None and card.policy["subspace"] is not None
        found.append((made, card.policy["subspace"]))
    (_, first), *others = found
    for made, other in others:
        assert other["limit"] == pytest.approx(first["limit"], rel=1e-4)
        torch.testing.assert_close(other["mean"], first["mean"], rtol=1e-4, atol=1e-5)
        given, expected = made.descriptor.state_dict(), found[0][0].descriptor.state_dict()
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[key], expected[key]) for key in given)
    trunk = others[0][0].trunk.state_dict()
    before = found[0][0].prefix.blocks.state_dict()
    assert any(not torch.equal(trunk[key], before[key]) for key in trunk)


def test_the_bank_gives_what_the_network_gives(tmp_path: Path) -> None:
    run, root = tmp_path / "run", tmp_path / "images"
    train(train_config(run, *SMALL, f"data.root={root}"))
    made, card = load_checkpoint(run / "checkpoints" / "best.ckpt")
    cfg = train_config(run, *SMALL, f"data.root={root}")
    catalog = load_catalog(cfg.data)
    augmenter = Augmenter(with_defaults(AugmentConfig), 0)
    source = ImageViews.of(catalog, card.input_size, augmenter, False)
    keys = [(i, PLAIN) for i in (3, 0, 3, 7)]
    banked = describe(cfg.features, cfg.model, made, source, keys, CPU)
    cfg.features.bank = False
    np.testing.assert_allclose(
        banked, describe(cfg.features, cfg.model, made, source, keys, CPU), rtol=1e-4, atol=1e-5
    )
    pixels = torch.stack([source[key][0] for key in keys]).permute(0, 3, 1, 2)
    np.testing.assert_allclose(banked, made.descriptor(pixels).numpy(), rtol=1e-4, atol=1e-5)
