"""Feature fusion: each network computes what it computes alone; one vector, one head."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bcd.config.compose import with_defaults
from bcd.config.programs import EvalConfig, EvalDataConfig, PredictConfig
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.features.cache_key import plain_key, prefix_hash
from bcd.features.engines import make_engine
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.evaluate import evaluate_checkpoint
from bcd.models.backbones.build import build_backbone, check_backbone
from bcd.models.network import SmearNetwork
from bcd.run_folder import find_checkpoint
from bcd.training.run import train
from tests.helpers.choosing import exhaustive_if
from tests.helpers.harness import SMALL, predicted, train_config
from tests.models.test_models import images

# Of two libraries, with two normalisations, one giving maps and one vectors.
NAMES = ["shufflenet_v2_x0_5", "timm/test_vit"]
HYBRID = ("model=hybrid", f"model.backbones=[{','.join(NAMES)}]", "model.weights=null")

pytest.importorskip("timm")


def config(**settings: Any) -> ModelConfig:
    given: dict[str, Any] = {"backbone": "hybrid", "weights": None, "input_size": 64}
    return with_defaults(ModelConfig, **{**given, "backbones": NAMES, **settings})


def network_of(cfg: ModelConfig) -> SmearNetwork:
    torch.manual_seed(0)
    return SmearNetwork(build_backbone(cfg), 4, cfg).eval()


@pytest.fixture
def states(tmp_path: Path) -> list[str]:
    """Files with weights of each network alone, named as timm and torchvision name them."""
    import timm
    from torchvision.models import get_model

    torch.manual_seed(1)
    networks = [get_model(NAMES[0], weights=None), timm.create_model("test_vit", img_size=64)]
    for number, network in enumerate(networks):
        torch.save(network.state_dict(), tmp_path / f"{number}.pth")
    return [str(tmp_path / "0.pth"), str(tmp_path / "1.pth")]


def test_its_features_are_those_of_each_alone_side_by_side(states: list[str]) -> None:
    x, cfg = images(3), config(weights=states)
    network = network_of(cfg)
    with torch.no_grad():
        alone = [network_of(branch).prefix(x) for branch in cfg.branches()]
        given = network.prefix(x)
    assert [branch.title for branch in cfg.branches()] == NAMES
    torch.testing.assert_close(given, torch.cat(alone, 1), rtol=1e-4, atol=1e-4)
    made = make_engine("onnxruntime", network.prefix, 64, torch.device("cpu"))
    exported = made.forward(np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy()))
    torch.testing.assert_close(torch.from_numpy(exported), given, rtol=1e-4, atol=1e-4)


def test_weights_may_be_given_for_some_alone(states: list[str]) -> None:
    first, other = (network_of(config(weights=[None, states[1]])) for _ in range(2))
    both = network_of(config(weights=states))
    assert prefix_hash(first.prefix) == prefix_hash(other.prefix)  # random, of one seed
    kept = [v for k, v in first.prefix.state_dict().items() if ".branches.1.blocks." in k]
    same = [v for k, v in both.prefix.state_dict().items() if ".branches.1.blocks." in k]
    assert kept
    assert all(torch.equal(a, b) for a, b in zip(kept, same, strict=True))
    assert prefix_hash(first.prefix) != prefix_hash(both.prefix)


@pytest.mark.parametrize("unfreeze", [1, "all"])
def test_trained_all_of_it_learns(unfreeze: int | str) -> None:
    network = network_of(config(unfreeze=unfreeze, batchnorm="trained")).train()
    trained = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    loss: Any = nn.functional.cross_entropy(network(images(4)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    changed = [not torch.equal(a, b) for a, b in zip(trained, before, strict=True)]
    assert np.mean(changed) > 0.8


def test_a_bank_is_another_for_other_networks_orders_and_normalisations() -> None:
    cfg = config(backbones=["cnn", "cnn"])
    prefix = network_of(cfg).prefix
    facts = plain_key(cfg, prefix, "torch", "float32", False).facts
    assert facts["backbone"] == "cnn + cnn"
    assert "timm" not in facts["versions"]
    assert "timm" in plain_key(config(), prefix, "torch", "float32", False).facts["versions"]
    before = prefix_hash(prefix)
    mean: Any = prefix.blocks.get_buffer("0.branches.1.mean")
    mean.add_(0.01)
    assert prefix_hash(prefix) != before


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"backbones": None}, "model.backbones: set model=hybrid"),
        ({"backbone": "mobilenet_v2"}, "model.backbones: set model=hybrid"),
        ({"backbone": "cnn", "backbones": None, "weights": ["a"]}, "a list needs model=hybrid"),
        ({"weights": "/w.pth"}, "give imagenet, null or a list of 2"),
        ({"weights": [None]}, "give imagenet, null or a list of 2"),
        ({"backbones": ["keras/a"]}, "model.library=keras: choose torchvision or timm"),
        ({"backbones": ["cnn", "resnet19"]}, "model.backbone=resnet19: choose .*'resnet18'"),
        ({"backbones": ["cnn", "timm/test_vti"]}, "timm has no network of that name.*'test_vit"),
        ({"backbones": ["cnn", "inception_v3"]}, "input_size=64: inception_v3 requires 75 or more"),
    ],
)
def test_what_cannot_stand_side_by_side_is_one_line(settings: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        check_backbone(config(**settings))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_built_names_the_network(states: list[str]) -> None:
    with pytest.raises(
        BcdError, match=rf"^model\.weights={re.escape(states[1])} does not fit shuf"
    ):
        build_backbone(config(weights=states[::-1]))
    with pytest.raises(ConfigError, match=r"shufflenet.*\+ timm/test_vit has 1 blocks"):
        network_of(config(unfreeze=2))


@pytest.mark.parametrize(
    "model",
    exhaustive_if(
        HYBRID.__ne__,
        [("model=mobilenetv1", "model.weights=null"),
         ("model=timm", "model.backbone=test_vit", "model.weights=null"), HYBRID],
    ),
    ids=["mobilenetv1", "timm", "hybrid"],
)  # fmt: skip
def test_from_images_to_predictions(model: tuple[str, ...], tmp_path: Path) -> None:
    settings = (*SMALL, f"data.root={tmp_path}/in", *model)
    done = train(train_config(tmp_path / "run", *settings))
    assert done is not None
    network, card = load_checkpoint(find_checkpoint(str(tmp_path / "run")))
    trained, x = done.classifier.network.eval(), images(2, 48)
    with torch.no_grad():
        assert torch.equal(network(x), trained(x))
    # The same seed draws the same prefix again: training left every bit of it as it was.
    cfg = train_config(tmp_path / "run", *settings)
    torch.manual_seed(cfg.seed)
    drawn = SmearNetwork(build_backbone(replace(cfg.model)), len(card.classes), cfg.model)
    assert prefix_hash(drawn.prefix) == prefix_hash(trained.prefix)
    asked = with_defaults(
        EvalConfig, ckpt=str(tmp_path / "run"), device="cpu", run_dir=str(tmp_path / "eval")
    )
    asked.data = with_defaults(EvalDataConfig, num_workers=0)
    (result,) = evaluate_checkpoint(asked).values()
    assert result.metrics["accuracy"] == done.metrics["test"]["accuracy"]
    files = str(next((tmp_path / "in").rglob("*.png")).parent)
    rows = predicted(
        with_defaults(
            PredictConfig,
            ckpt=str(tmp_path / "run"),
            input=files,
            device="cpu",
            num_workers=0,
            run_dir=str(tmp_path / "out"),
        )
    )
    assert rows
    assert not any(row.error for row in rows)
