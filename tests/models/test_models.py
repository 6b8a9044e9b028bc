"""The backbones against torchvision, and what of the network is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torchvision.models import get_model, get_weight
from torchvision.transforms.v2 import functional as vision

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import ConfigError
from bcd.models.backbones.build import build_backbone
from bcd.models.classifier import SmearClassifier
from bcd.models.network import SmearNetwork
from tests.helpers.noise import made_up_catalog

TORCHVISION = ("mobilenet_v2", "efficientnet_b0")
# The counts of unfrozen blocks that behave unlike each other.
UNFREEZE: tuple[int | str, ...] = (0, 1, 4, "all")


def images(count: int, size: int = 64, seed: int = 0) -> Tensor:
    """Large patches of colour, as unlike each other as can be."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return patches.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)


def normalized(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The input of ImageNet networks, by torchvision's own functions and constants."""
    transforms = get_weight("MobileNet_V2_Weights.IMAGENET1K_V1").transforms()
    x = vision.to_dtype(x, dtype, scale=True)
    result: Tensor = vision.normalize(x, transforms.mean, transforms.std)
    return result


def lively(network: nn.Module, size: int = 64) -> nn.Module:
    """Gives every BatchNorm statistics of its own input and an affine map of its own."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.uniform_(0.6, 1.4, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
    with torch.no_grad():
        network.train()(normalized(images(8, size, seed=9)))
    return network.eval()


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """torchvision's networks, and the files of their state dicts."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for name in TORCHVISION:
        torch.manual_seed(0)
        network = lively(get_model(name, weights=None))
        torch.save(network.state_dict(), folder / f"{name}.pth")
        made[name] = (network, folder / f"{name}.pth")
    return made


def network_of(backbone: str, weights: Path | None, **settings: Any) -> SmearNetwork:
    cfg = with_defaults(
        ModelConfig,
        backbone=backbone,
        weights=None if weights is None else str(weights),
        **settings,
    )
    torch.manual_seed(0)  # the same head, and without weights the same blocks
    return SmearNetwork(build_backbone(cfg), 4, cfg)


@pytest.mark.parametrize("backbone", TORCHVISION)
def test_features_are_those_of_torchvision(
    backbone: str, references: dict[str, tuple[Any, Path]]
) -> None:
    reference, file = references[backbone]
    network = network_of(backbone, file).eval()
    x = images(3)
    with torch.no_grad():
        expected = reference.features(normalized(x)).mean((2, 3))
        features, logits = network.prefix(x), network(x)
    assert expected.shape == (3, 1280)
    assert expected.std(dim=0).mean() > 0.1 * expected.std()  # they tell images apart
    # Rounding alone, which another order of memory changes, stays far below this.
    allowed = 1e-3 * float(expected.std())
    torch.testing.assert_close(features, expected, rtol=0, atol=allowed)
    torch.testing.assert_close(logits, network.head(expected), rtol=0, atol=allowed)


def test_normalisation_is_that_of_torchvision() -> None:
    every = torch.arange(256, dtype=torch.uint8).expand(3, 256).reshape(1, 3, 16, 16)
    network = network_of("cnn", None, unfreeze="all")
    assert len(network.prefix.blocks) == 0
    torch.testing.assert_close(network.prefix(every), normalized(every))


def test_float_pixels_and_bytes_give_the_same_features() -> None:
    network = network_of("cnn", None).eval()
    x = images(2)
    assert torch.equal(network(x), network(x.float()))
    contiguous = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(contiguous), network(x))


@pytest.mark.parametrize("backbone", [*TORCHVISION, "cnn"])
@pytest.mark.parametrize("unfreeze", UNFREEZE)
def test_the_last_blocks_and_the_head_alone_are_trained(backbone: str, unfreeze: int | str) -> None:
    network = network_of(backbone, None, unfreeze=unfreeze)
    blocks = [*network.prefix.blocks, *network.trunk]
    assert len(blocks) == len(
        build_backbone(with_defaults(ModelConfig, backbone=backbone, weights=None)).blocks
    )
    count = len(blocks) if unfreeze == "all" else int(unfreeze)
    trained = [p for block in blocks[len(blocks) - count :] for p in block.parameters()]
    wanted = {id(p) for p in [*trained, *network.head.parameters()]}
    assert {id(p) for p in network.parameters() if p.requires_grad} == wanted
    network.train()(images(2, size=32)).square().sum().backward()
    assert {id(p) for p in network.parameters() if p.grad is not None} == wanted


@pytest.mark.parametrize("backbone", [*TORCHVISION, "cnn"])
def test_what_is_unfrozen_changes_no_output_in_eval_mode(
    backbone: str, references: dict[str, tuple[Any, Path]]
) -> None:
    file = references[backbone][1] if backbone in references else None
    x = images(2, size=32)
    with torch.no_grad():
        expected = network_of(backbone, file).eval()(x)
        for unfreeze in UNFREEZE[1:]:
            given = network_of(backbone, file, unfreeze=unfreeze).eval()(x)
            torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("unfreeze", [0, 2, "all"])
@pytest.mark.parametrize("batchnorm", ["frozen", "trained"])
def test_batchnorm_follows_the_mode_in_trained_blocks_only_where_asked(
    batchnorm: str, unfreeze: int | str
) -> None:
    settings = with_defaults(
        ModelConfig,
        backbone="efficientnet_b0",
        weights=None,
        unfreeze=unfreeze,
        batchnorm=batchnorm,
    )
    classifier = SmearClassifier(settings, 4)
    network = classifier.network
    classifier.eval()
    assert not any(module.training for module in network.modules())
    classifier.train()
    assert not any(module.training for module in network.prefix.modules())
    norms = [m for m in network.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (unfreeze != 0)
    assert {m.training for m in norms} <= {batchnorm == "trained"}
    others = [m for m in network.trunk.modules() if not isinstance(m, nn.BatchNorm2d)]
    assert all(m.training for m in [*others, network.dropout, network.head])


@pytest.mark.parametrize("batchnorm", ["frozen", "trained"])
def test_a_forward_pass_in_training_moves_statistics_of_trained_norms_alone(
    batchnorm: str,
) -> None:
    network = network_of("cnn", None, unfreeze=2, batchnorm=batchnorm).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(images(4))
    moved = {n for n, value in network.named_buffers() if not torch.equal(before[n], value)}
    trunk = {name for name in before if name.startswith("trunk.")}
    assert trunk
    assert moved == (trunk if batchnorm == "trained" else set())


def test_dropout_acts_in_training_only() -> None:
    network = network_of("cnn", None, dropout=0.5)
    plain = network_of("cnn", None, dropout=0.0)
    x = images(2, size=32)
    expected = plain.eval()(x)
    assert torch.equal(network.eval()(x), expected)
    assert torch.equal(plain.train()(x), expected)
    features = network.prefix(x)
    network.train().prefix.skipped = True
    assert not torch.equal(network(features), network(features))
    mean = network(features.repeat(4000, 1)).view(4000, *expected.shape).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("unfreeze", [0, 2, "all"])
def test_a_prefix_that_is_fed_its_outputs_hands_them_on(unfreeze: int | str) -> None:
    network = network_of("cnn", None, unfreeze=unfreeze).eval()
    x = images(3)
    expected, outputs = network(x), network.prefix(x)
    assert outputs.ndim == (2 if unfreeze == 0 else 4)
    assert not outputs.requires_grad
    network.prefix.skipped = True
    assert torch.equal(network(outputs), expected)
    network.prefix.skipped = False
    assert torch.equal(network(x), expected)


def test_class_weights_enter_the_loss_as_a_weighted_mean() -> None:
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=None)
    weights = [0.5, 3.0, 1.0]
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0, 0])
    each = nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    chosen = np.array(weights)[labels.numpy()]
    weighted = SmearClassifier(cfg, 3, class_weights=weights)
    expected = np.average(each, weights=chosen)
    assert float(weighted.objective(logits, labels)) == pytest.approx(expected)
    plain = SmearClassifier(cfg, 3)
    assert float(plain.objective(logits, labels)) == pytest.approx(each.mean())
    # A constant of the loss is no part of the weights that a checkpoint must fit.
    assert plain.network.state_dict().keys() == weighted.network.state_dict().keys()


def test_balanced_weights_are_those_of_scikit_learn_on_the_train_part() -> None:
    from bcd.data.splits.split import Split
    from bcd.training.build import _class_weights

    catalog = made_up_catalog((9, 5, 14))
    parts = np.where(np.arange(28) % 4 < 3, "train", "test")
    labels = np.array(catalog.labels)[parts == "train"]
    assert len(set(np.bincount(labels))) == 3
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    given = _class_weights(catalog, Split(tuple(map(str, parts))))
    assert given == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("backbone", "unfreeze", "blocks"),
    [("cnn", 5, 4), ("mobilenet_v2", 20, 19), ("efficientnet_b0", 10, 9)],
)
def test_unfreezing_more_than_there_is_names_the_number_of_blocks(
    backbone: str, unfreeze: int, blocks: int
) -> None:
    with pytest.raises(ConfigError, match=rf"model\.unfreeze={unfreeze}.*{backbone}.* {blocks} "):
        network_of(backbone, None, unfreeze=unfreeze)
    whole = network_of(backbone, None, unfreeze=blocks)
    assert not len(whole.prefix.blocks)
    assert all(p.requires_grad for p in (*whole.trunk.parameters(), *whole.head.parameters()))
