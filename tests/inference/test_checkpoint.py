"""Files that are given as a checkpoint and are none."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.models.classifier import SmearClassifier
from bcd.run_folder import find_checkpoint
from tests.helpers.harness import train_config


def content() -> dict[str, Any]:
    """A checkpoint's content, as far as reading it goes."""
    from dataclasses import asdict, replace

    model = with_defaults(ModelConfig, backbone="cnn", weights=None, input_size=48)
    classifier = SmearClassifier(model, 3)
    config = asdict(replace(train_config(Path("run")), model=model))
    split: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    card = Card(["a", "b", "c"], 0, 48, PLAIN, "/nowhere", split, "", config, MEAN, STD)
    return {"card": card.to_dict(), "state_dict": classifier.state_dict()}


# Unlike those of any backbone: what a checkpoint says of itself counts.
PLAIN = [{"normalization": "plain", "side": 48}]
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_a_checkpoint_gives_its_network_in_eval_mode_and_its_card(tmp_path: Path) -> None:
    written = content()
    torch.save(written, tmp_path / "a.ckpt")
    network, card = load_checkpoint(tmp_path / "a.ckpt", uncalibrated=True)
    assert card.to_dict() == written["card"]
    assert not any(module.training for module in network.modules())
    assert network.prefix.get_buffer("mean").flatten().tolist() == pytest.approx(MEAN)
    assert network.prefix.get_buffer("std").flatten().tolist() == pytest.approx(STD)
    for name, value in network.state_dict().items():
        assert torch.equal(value, written["state_dict"][f"network.{name}"]), name


def spoilt(kind: str, file: Path) -> None:
    given = content()
    if kind == "text":
        file.write_text("no checkpoint\n")
    elif kind == "empty":
        file.touch()
    elif kind == "truncated":
        torch.save(given, file)
        file.write_bytes(file.read_bytes()[:-2000])
    elif kind == "weights only":
        torch.save(given["state_dict"], file)
    elif kind == "list":
        torch.save([1, 2], file)
    elif kind == "no weights":
        del given["state_dict"]
        torch.save(given, file)
    elif kind == "card of text":
        torch.save({**given, "card": "a card"}, file)
    elif kind == "card lacks":
        del given["card"]["classes"]
        torch.save(given, file)
    elif kind == "weights lack":
        del given["state_dict"]["network.head.bias"]
        torch.save(given, file)
    elif kind == "other classes":
        given["card"]["classes"].append("d")
        torch.save(given, file)


@pytest.mark.parametrize(
    "kind",
    ["text", "empty", "truncated", "weights only", "list", "no weights", "card of text",
     "card lacks", "weights lack", "other classes"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_an_error_in_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    spoilt(kind, file)
    with pytest.raises(BcdError, match=r"not a checkpoint that train\.py wrote") as caught:
        load_checkpoint(file)
    assert str(caught.value).startswith(f"ckpt={file}:")
    assert "\n" not in str(caught.value)
    assert caught.value.status == 1


def test_a_card_of_another_version_is_told_apart(tmp_path: Path) -> None:
    given = content()
    given["card"]["version"] = 99
    torch.save(given, tmp_path / "a.ckpt")
    with pytest.raises(BcdError, match="version 99, not"):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(kind: str, tmp_path: Path) -> None:
    sprung, file = tmp_path / "sprung", tmp_path / "a.ckpt"
    given = {**content(), "extra": Trap(sprung)}
    if kind == "torch":
        torch.save(given, file)
    else:
        file.write_bytes(pickle.dumps(given, protocol=2))
    with pytest.raises(BcdError, match="not a checkpoint"):
        load_checkpoint(file)
    assert not sprung.exists()
    torch.load(file, weights_only=False) if kind == "torch" else pickle.loads(file.read_bytes())
    assert sprung.exists()  # the trap is one


def test_no_checkpoint_there_says_who_writes_them(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for text in (str(tmp_path / "run"), str(tmp_path / "none.ckpt")):
        with pytest.raises(BcdError, match=r"no checkpoint there; train\.py writes") as caught:
            find_checkpoint(text)
        assert str(caught.value).startswith(f"ckpt={text}:")
