"""Weights that a backbone starts from: read, downloaded, or refused, but never made up."""

from __future__ import annotations

import io
import re
import urllib.error
import urllib.response
from email.message import Message
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.models.backbones.build import BACKBONES, build_backbone
from tests.helpers.choosing import exhaustive_if


def state_of(backbone: str = "mobilenet_v2") -> dict[str, Tensor]:
    torch.manual_seed(3)
    if backbone == "cnn":
        return build_backbone(
            with_defaults(ModelConfig, backbone="cnn", weights=None)
        ).blocks.state_dict()
    return dict(get_model(backbone, weights=None).state_dict())


def no_network(*arguments: object, **settings: object) -> NoReturn:
    raise urllib.error.URLError("no network here")


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "efficientnet_b0", "cnn"])
def test_a_file_of_weights_is_taken_whole(backbone: str, tmp_path: Path) -> None:
    state = state_of(backbone)
    torch.save(state, tmp_path / "w.pth")
    blocks = build_backbone(
        with_defaults(ModelConfig, backbone=backbone, weights=str(tmp_path / "w.pth"))
    ).blocks
    prefix = "" if backbone == "cnn" else "features."
    for name, value in blocks.state_dict().items():
        assert torch.equal(value, state[prefix + name]), name


def test_weights_in_half_precision_serve(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in state_of().items()}
    torch.save(state, tmp_path / "half.pth")
    blocks = build_backbone(with_defaults(ModelConfig, weights=str(tmp_path / "half.pth"))).blocks
    assert {p.dtype for p in blocks.parameters()} == {torch.float32}
    assert torch.equal(blocks.state_dict()["0.0.weight"], state["features.0.0.weight"].float())


def test_random_weights_are_had_by_asking_only() -> None:
    torch.manual_seed(0)
    one = build_backbone(with_defaults(ModelConfig, backbone="cnn", weights=None)).blocks
    other = build_backbone(with_defaults(ModelConfig, backbone="cnn", weights=None)).blocks
    assert not torch.equal(one.state_dict()["0.0.weight"], other.state_dict()["0.0.weight"])


def broken(kind: str, file: Path) -> None:
    state: Any = state_of()
    if kind == "text":
        file.write_text("not weights\n")
    elif kind == "empty":
        file.touch()
    elif kind == "truncated":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:-1000])
    elif kind == "list":
        torch.save(list(state.values())[:2], file)
    elif kind == "nested":
        torch.save({"state_dict": state, "epoch": 3}, file)
    elif kind == "shape":
        state["features.18.0.weight"] = torch.zeros(7, 320, 1, 1)
        torch.save(state, file)
    elif kind == "lacking":
        del state["features.3.conv.0.0.weight"]
        torch.save(state, file)
    elif kind == "other network":
        torch.save(state_of("cnn"), file)
    elif kind == "folder":
        file.mkdir()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "no checkpoint there"),
        ("text", "not a PyTorch state dict"),
        ("empty", "not a PyTorch state dict"),
        ("truncated", "not a PyTorch state dict"),
        ("list", "not a plain state dict of tensors"),
        ("nested", "not a plain state dict of tensors"),
        ("shape", "does not fit mobilenet_v2: size mismatch for features.18.0.weight"),
        ("lacking", r"does not fit mobilenet_v2: Missing key.*features\.3\.conv\.0\.0\.weight"),
        ("other network", "does not fit mobilenet_v2"),
    ],
)
def test_weights_that_cannot_serve_are_an_error_in_one_line(
    kind: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "w.pth"
    broken(kind, file)
    with pytest.raises(BcdError, match=reason) as caught:
        build_backbone(with_defaults(ModelConfig, weights=str(file)))
    line = str(caught.value)
    assert line.startswith(f"model.weights={file}")
    assert "\n" not in line
    assert caught.value.status == 1


def test_a_backbone_without_imagenet_weights_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"model\.weights=imagenet: cnn has none.*weights=null"):
        build_backbone(with_defaults(ModelConfig, backbone="cnn", weights="imagenet"))


def test_an_unknown_backbone_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone=mobilenetv2: choose") as caught:
        build_backbone(with_defaults(ModelConfig, backbone="mobilenetv2", weights=None))
    assert all(name in str(caught.value) for name in BACKBONES)
    assert "did you mean 'mobilenet_v2'" in str(caught.value)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "efficientnet_b0"])
def test_without_a_network_imagenet_says_what_to_fetch_and_where_to_put_it(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(BcdError, match="no network here") as caught:
        build_backbone(with_defaults(ModelConfig, backbone=backbone, weights="imagenet"))
    line = str(caught.value)
    assert "\n" not in line
    assert "model.weights=" in line
    assert get_model_weights(backbone)["IMAGENET1K_V1"].url in line
    found = re.search(r"put it at (\S+),", line)
    assert found is not None
    target = Path(found.group(1))
    assert target.is_relative_to(tmp_path)
    assert not target.exists()
    # Whoever does as told gets the weights.
    state = state_of(backbone)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, target)
    blocks = build_backbone(
        with_defaults(ModelConfig, backbone=backbone, weights="imagenet")
    ).blocks
    assert torch.equal(blocks.state_dict()["0.0.weight"], state["features.0.0.weight"])


def test_a_download_that_is_not_what_was_published_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = urllib.response.addinfourl(io.BytesIO(b"<html>log in</html>"), Message(), "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: page)
    with pytest.raises(BcdError, match=r"could not be downloaded .*hash"):
        build_backbone(with_defaults(ModelConfig, weights="imagenet"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(  # vgg11 is as alexnet is, with half a gigabyte of weights
    "backbone",
    exhaustive_if("vgg11".__eq__, ["alexnet", "vgg11", "mobilenet_v2", "convnext_tiny"]),
)
@pytest.mark.parametrize("kept", ["features alone", "other classes"])
def test_a_classifier_that_is_dropped_may_be_missing(
    backbone: str, kept: str, tmp_path: Path
) -> None:
    state = state_of(backbone)
    last = max((k for k in state if k.startswith("classifier") and k.endswith(".bias")), key=str)
    dropped = {last, last.replace(".bias", ".weight")}
    if backbone in ("alexnet", "vgg11"):  # of others the last layer alone
        dropped = {key for key in state if key.startswith("classifier")}
    few = {k: v for k, v in state.items() if k not in dropped}
    if kept == "other classes":
        few |= {key: torch.zeros(7) for key in dropped}
    torch.save(few, tmp_path / "w.pth")
    torch.save(state, tmp_path / "whole.pth")
    one, two = (
        build_backbone(
            with_defaults(ModelConfig, backbone=backbone, weights=str(tmp_path / name))
        ).blocks.state_dict()
        for name in ("w.pth", "whole.pth")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    needed = next(key for key in few if key not in dropped)
    torch.save({k: v for k, v in few.items() if k != needed}, tmp_path / "w.pth")
    with pytest.raises(BcdError, match=f"does not fit {backbone}: Missing key.*{needed}"):
        build_backbone(
            with_defaults(ModelConfig, backbone=backbone, weights=str(tmp_path / "w.pth"))
        )
