"""Starting from the backbone of another run, whatever its classes were."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError
from bcd.inference.checkpoint import load_checkpoint
from bcd.inference.parts import count_trained
from bcd.models.backbones.build import build_backbone
from bcd.models.backbones.run_weights import weights_sources
from bcd.models.checkpoint_content import CARD_VERSION, read_content
from bcd.models.classifier import SmearClassifier
from bcd.models.network import SmearNetwork
from bcd.training.run import TrainResult, train
from tests.helpers.harness import SMALL, train_config
from tests.helpers.noise import write_classes

BEST = Path("checkpoints") / "best.ckpt"
WORDS = ("data.num_workers=0", *SMALL[5:], "logger=none", "trainer.max_epochs=1")
FROZEN = ("model.unfreeze=0", "model.batchnorm=frozen")
CELLS = {"eosinophil": 8, "lymphocyte": 8, "monocyte": 8}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run on normal cells, three classes with other names than those of the smears."""
    folder = tmp_path_factory.mktemp("cells")
    root = write_classes(folder / "images", CELLS)
    return trained(folder / "run", root, "data.benign=null")


def trained(run: Path, root: Path, *words: str) -> TrainResult:
    result = train(train_config(run, *WORDS, f"data.root={root}", *words))
    assert result is not None
    return result


def blocks_of(network: SmearNetwork) -> dict[str, Tensor]:
    """All tensors of the backbone by the number of their block."""
    return {**network.prefix.blocks.state_dict(), **network.trunk.state_dict()}


def kept(cells: TrainResult) -> dict[str, Tensor]:
    return blocks_of(load_checkpoint(cells.run_dir / BEST)[0])


@pytest.mark.parametrize("given", ["run folder", "checkpoint"])
@pytest.mark.parametrize("unfreeze", [0, 2, "all"])
def test_the_backbone_is_that_of_the_run_and_the_head_is_new(
    given: str, unfreeze: Any, cells: TrainResult
) -> None:
    weights = cells.run_dir / (BEST if given == "checkpoint" else "")
    cfg = with_defaults(
        ModelConfig, backbone="cnn", weights=str(weights), input_size=48, unfreeze=unfreeze
    )
    torch.manual_seed(5)
    network = SmearClassifier(cfg, 4).network
    expected, given_blocks = kept(cells), blocks_of(network)
    assert given_blocks.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in given_blocks.items())
    assert len(network.trunk) == {0: 0, 2: 2, "all": 4}[unfreeze]
    assert all(p.requires_grad for p in network.trunk.parameters())
    assert not any(p.requires_grad for p in network.prefix.parameters())
    head = network.head.state_dict()
    assert head["weight"].shape == (4, 128)
    torch.manual_seed(6)
    other = SmearClassifier(cfg, 4).network
    assert not torch.equal(head["weight"], other.head.state_dict()["weight"])
    again = blocks_of(other)
    assert all(torch.equal(value, again[name]) for name, value in given_blocks.items())


def test_a_frozen_run_keeps_the_backbone_and_a_trained_one_changes_it(
    cells: TrainResult, tmp_path: Path
) -> None:
    root = write_classes(tmp_path / "smears", count=6, size=44)
    source, expected = f"model.weights={cells.run_dir}", kept(cells)
    trained(tmp_path / "frozen", root, source, *FROZEN)
    frozen, card = load_checkpoint(tmp_path / "frozen" / BEST)
    assert len(card.classes) == 4
    assert all(torch.equal(value, expected[name]) for name, value in blocks_of(frozen).items())
    trained(tmp_path / "tuned", root, source, "model.unfreeze=1")
    tuned, _ = load_checkpoint(tmp_path / "tuned" / BEST)
    changed = {n[0] for n, v in blocks_of(tuned).items() if not torch.equal(v, expected[n])}
    assert changed == {"3"}
    # A run that starts from a partly frozen one finds blocks on both sides of its boundary.
    cfg = with_defaults(
        ModelConfig, backbone="cnn", weights=str(tmp_path / "tuned"), input_size=48, unfreeze="all"
    )
    third, second = blocks_of(SmearClassifier(cfg, 4).network), blocks_of(tuned)
    assert all(torch.equal(value, second[name]) for name, value in third.items())

    info = json.loads((tmp_path / "tuned" / "run.json").read_text())
    file = cells.run_dir / BEST
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert info["weights"] == [{"given": str(cells.run_dir), "file": str(file), "sha256": sha256}]
    assert info["warnings"] == [w for w in info["warnings"] if "too optimistic" not in w]


def test_images_that_the_first_run_was_trained_on_are_counted(
    cells: TrainResult, tmp_path: Path
) -> None:
    root = write_classes(tmp_path / "smears", CELLS)  # the same images
    result = trained(tmp_path / "run", root, "data.benign=null", f"model.weights={cells.run_dir}",
                     "split.seed=1")  # fmt: skip
    first = load_checkpoint(cells.run_dir / BEST)[1].sha256s("train", "val")
    card = load_checkpoint(tmp_path / "run" / BEST)[1]
    assert set(card.pretrained_on) == first
    seen = len(card.sha256s("test") & first)
    assert 0 < seen < len(card.split["test"])
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    (line,) = [w for w in info["warnings"] if "too optimistic" in w]
    assert f"{seen} of {len(card.split['test'])} test images" in line
    catalog = result.datamodule.catalog
    tested = result.datamodule.split.indices("test")
    assert count_trained(catalog, card, tested) == seen
    assert count_trained(catalog, replace(card, pretrained_on=[]), tested) == 0
    # What is handed on through a run that trained no block are the images of the run before it.
    trained(tmp_path / "next", root, "data.benign=null", f"model.weights={tmp_path / 'run'}",
            *FROZEN)  # fmt: skip
    cfg = with_defaults(ModelConfig, backbone="cnn", weights=str(tmp_path / "next"), input_size=48)
    (source,) = weights_sources(cfg)
    assert source.images == first | card.sha256s("train", "val")


def test_each_fused_network_may_start_from_a_run(cells: TrainResult) -> None:
    cfg = with_defaults(
        ModelConfig,
        backbone="hybrid",
        backbones=["cnn", "cnn"],
        weights=[str(cells.run_dir), None],
        input_size=48,
    )
    state, expected = build_backbone(cfg).blocks.state_dict(), kept(cells)
    for name, value in expected.items():
        assert torch.equal(state[f"0.branches.0.blocks.{name}"], value), name
    assert not torch.equal(state["0.branches.1.blocks.0.0.weight"], expected["0.0.weight"])
    assert [source.given for source in weights_sources(cfg)] == [str(cells.run_dir), None]


def spoil(kind: str, content: dict[str, Any]) -> None:
    card, state = content["card"], content["state_dict"]
    if kind == "version":
        card["version"] = 4
    elif kind == "normalization":
        card["mean"] = [0.5, 0.5, 0.5]
    elif kind == "not finite":
        state["network.trunk.2.0.weight"][0] = float("nan")
    elif kind == "lacking":
        del state["network.trunk.2.0.weight"]
    elif kind == "no model":
        del card["config"]["model"]


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("whole", {"backbone": "mobilenet_v2"}, "has the backbone cnn, not mobilenet_v2"),
        ("whole", {"input_size": 64}, "images of 48 pixels, not 64; set model.input_size=48"),
        ("version", {}, f"its card has version 4, not {CARD_VERSION}"),
        ("normalization", {}, r"normalizes with mean \[0.5, 0.5, 0.5\]"),
        ("not finite", {}, "its weights are not finite"),
        ("lacking", {}, r"does not fit cnn: Missing key.*2\.0\.weight"),
        ("no model", {}, "not a checkpoint that train.py wrote"),
    ],
)
def test_a_run_that_does_not_fit_is_an_error_in_one_line(
    kind: str, settings: dict[str, Any], reason: str, cells: TrainResult, tmp_path: Path
) -> None:
    content = read_content(cells.run_dir / BEST)
    spoil(kind, content)
    file = tmp_path / "a.ckpt"
    torch.save(content, file)
    names = {"backbone": "cnn", "input_size": 48, "weights": str(file), **settings}
    with pytest.raises(BcdError, match=reason) as caught:
        build_backbone(with_defaults(ModelConfig, **names))
    assert str(caught.value).startswith(f"model.weights={file}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_checkpoint_is_an_error_before_images_are_read(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "smears", count=3)
    with pytest.raises(BcdError, match=rf"model\.weights={root}: no checkpoint there"):
        trained(tmp_path / "run", root, f"model.weights={root}")
    assert not (tmp_path / "run").exists()
