"""Every network of the zoo against torchvision's own, and what of it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.features.engines import make_engine
from bcd.models.backbones.blocks import cut
from bcd.models.backbones.build import BACKBONES, build_backbone, normalization
from bcd.models.frozen_prefix import FrozenPrefix
from bcd.models.network import SmearNetwork
from tests.helpers.choosing import LARGE, exhaustive_if
from tests.models.test_models import images, lively, normalized

TORCHVISION = [name for name in BACKBONES if name != "cnn"]
CPU = torch.device("cpu")
BLOCKS = {
    "mobilenet_v2": 19, "mobilenet_v3_large": 17, "efficientnet_b0": 9, "efficientnet_v2_s": 8,
    "alexnet": 5, "inception_v3": 16, "resnet50": 5, "densenet201": 8, "convnext_tiny": 8,
    "vit_b_16": 13, "cnn": 4,
}  # fmt: skip


def side(backbone: str) -> int:
    """A small image's."""
    return 128 if backbone == "inception_v3" else 64


def own_features(network: Any, x: Tensor) -> Tensor:
    """What torchvision's own forward hands to the first linear layer of its classifier."""
    head = next(getattr(network, n) for n in ("classifier", "fc", "heads") if hasattr(network, n))
    linear = next((m for m in head.modules() if isinstance(m, nn.Linear)), None)
    seen: list[Tensor] = []
    if linear is not None and type(network).__name__ not in ("AlexNet", "VGG"):
        hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    else:  # what stands in front of these is not pooled to one number a channel
        hook = network.features.register_forward_hook(
            lambda _, __, out: seen.append(out.mean((2, 3)))
        )
    with torch.no_grad():
        network(x)
    hook.remove()
    return seen[0]


@dataclass
class Reference:
    name: str
    network: Any
    file: Path

    def make(self, **settings: Any) -> SmearNetwork:
        cfg = with_defaults(
            ModelConfig,
            backbone=self.name,
            weights=str(self.file),
            input_size=side(self.name),
            **settings,
        )
        torch.manual_seed(0)  # the same head
        return SmearNetwork(build_backbone(cfg), 4, cfg)


def own_network(name: str, **settings: Any) -> Any:
    if name in ("inception_v3", "googlenet"):
        # As torchvision makes them with ImageNet weights.
        settings |= {"transform_input": True, "init_weights": True}
    if name.startswith("vit"):
        settings |= {"image_size": side(name)}
    torch.manual_seed(0)
    network = get_model(name, weights=None, **settings)
    # In training these heads want large images.
    extra = {n: m for n, m in network.named_children() if n.lower().startswith("aux")}
    for head in extra:
        setattr(network, head, None)
    lively(network, side(name))
    for head, module in extra.items():
        setattr(network, head, module)
    return network


@pytest.fixture(scope="module", params=exhaustive_if(LARGE.__contains__, TORCHVISION))
def reference(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    name: str = request.param
    network = own_network(name)
    file = tmp_path_factory.mktemp("zoo") / f"{name}.pth"
    torch.save(network.state_dict(), file)
    yield Reference(name, network, file)
    file.unlink()


def test_features_are_what_torchvision_puts_in_front_of_its_classifier(
    reference: Reference,
) -> None:
    # In double precision: random networks as deep as these make much of a rounding.
    network = reference.make().eval().double()
    x = images(3, side(reference.name))
    expected = own_features(reference.network.double(), normalized(x, torch.float64))
    with torch.no_grad():
        features, logits = network.prefix(x), network(x)
    assert features.shape == expected.shape
    assert expected.std(dim=0).mean() > 0.01 * expected.std()  # they tell images apart
    allowed = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(features, expected, rtol=0, atol=allowed)
    torch.testing.assert_close(logits, network.head(expected), rtol=0, atol=10 * allowed)
    assert len(network.prefix.blocks) == BLOCKS[reference.name]


def test_one_block_trained_leaves_all_before_it_bit_for_bit(reference: Reference) -> None:
    network = reference.make(unfreeze=1, batchnorm="trained").train()
    x = images(2, side(reference.name))
    assert len(network.trunk) == 1
    trained = [*network.trunk.parameters(), *network.head.parameters()]
    assert {id(p) for p in network.parameters() if p.requires_grad} == {id(p) for p in trained}
    frozen = {k: v.clone() for k, v in network.prefix.state_dict().items()}
    before, outputs = [p.detach().clone() for p in trained], network.prefix(x)
    loss: Any = nn.functional.cross_entropy(network(x), torch.tensor([0, 1]))
    loss.backward()
    torch.optim.SGD(trained, lr=1.0).step()
    assert all(torch.equal(v, frozen[k]) for k, v in network.prefix.state_dict().items())
    assert torch.equal(network.prefix(x), outputs)
    changed = [not torch.equal(p, old) for p, old in zip(trained, before, strict=True)]
    assert np.mean(changed) > 0.8  # a ReLU may stop the gradient of some


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.slow
def test_engines_give_what_the_prefix_gives(reference: Reference, engine: str) -> None:
    network, size = reference.make().eval(), side(reference.name)
    x = images(2, size)
    with torch.no_grad():
        expected = network.prefix(x).numpy()
    made = make_engine(engine, network.prefix, size, CPU)
    channels_last = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
    for count in (2, 1):
        given = made.forward(channels_last[:count])
        assert np.abs(given - expected[:count]).max() <= 1e-4 * np.abs(expected).max()


def test_every_number_of_a_state_dict_arrives(reference: Reference) -> None:
    state = torch.load(reference.file, weights_only=True)
    network = reference.make()
    given = {value.data_ptr(): value for value in network.prefix.blocks.state_dict().values()}
    heads = ("classifier.", "fc.", "heads.", "AuxLogits.")
    kept = {k: v for k, v in state.items() if not k.startswith(heads)}
    if reference.name == "convnext_tiny":
        kept |= {k: v for k, v in state.items() if k.startswith("classifier.0.")}
    assert len(kept) == len(given)
    total = sum(float(v.double().sum()) for v in kept.values())
    assert sum(float(v.double().sum()) for v in given.values()) == pytest.approx(total)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "googlenet", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1",
     "mobilenet_v3_small", "densenet121"],
)  # fmt: skip
def test_others_of_torchvision_give_their_own_features_too(name: str) -> None:
    own, cfg = (
        own_network(name),
        with_defaults(ModelConfig, backbone=name, weights=None, input_size=64),
    )
    mean, std = normalization(cfg)
    blocks, features = cut(own)
    prefix = FrozenPrefix(blocks, True, mean, std)
    x = images(2)
    expected = own_features(own, normalized(x))
    assert expected.shape == (2, features)
    channels_last = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
    exported = torch.from_numpy(make_engine("onnxruntime", prefix, 64, CPU).forward(channels_last))
    for given in (prefix(x), exported):
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
