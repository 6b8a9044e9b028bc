"""timm's networks: cut as it runs them itself, with its weights or an error in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcd.commands.models import main, shipped
from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.features.cache_key import plain_key
from bcd.features.engines import make_engine
from bcd.models.backbones.build import build_backbone, check_backbone, empty_backbone, normalization
from bcd.models.backbones.timm import End
from bcd.models.backbones.tracing import trace
from bcd.models.network import SmearNetwork
from tests.models.test_models import images, lively

timm = pytest.importorskip("timm")

# Small ones of every way to be cut: the number of blocks; 1 where a network is no plain sequence.
BLOCKS = {
    "mobilenetv1_100": 6, "resnet10t": 7, "test_efficientnet": 7, "mobilenetv3_small_050": 8,
    "test_convnext": 5, "test_vit": 7, "test_vit4": 11, "regnetx_002": 5, "densenet121": 8,
    "swin_tiny_patch4_window7_224": 5, "deit_tiny_distilled_patch16_224": 13,
    "crossvit_9_240": 1, "test_vit_relpos": 1,
}  # fmt: skip
# Of these, those whose engine is tried too.
EXPORTED = ("mobilenetv1_100", "resnet10t", "test_convnext", "test_vit")
CPU = torch.device("cpu")


def side(name: str) -> int:
    return {"crossvit_9_240": 240}.get(name, 64)


def config(name: str, weights: Path | str | None = None, **settings: Any) -> ModelConfig:
    given = None if weights is None else str(weights)
    return with_defaults(
        ModelConfig, backbone=name, weights=given, input_size=side(name), library="timm", **settings
    )


def own_network(name: str) -> Any:
    """timm's own, with no number left at the value that it is drawn with."""
    known = timm.get_pretrained_cfg(name)
    torch.manual_seed(0)
    network = timm.create_model(
        name, **({"img_size": side(name)} if known.fixed_input_size else {})
    )
    lively(network, side(name))
    for key, parameter in network.named_parameters():
        norm = "bn" in key or "norm" in key
        if "pos_embed" in key or (parameter.ndim < 2 and not norm):
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return network


def own_features(network: Any, x: Tensor) -> Tensor:
    """What timm itself hands to its classifier for images uint8 (N, 3, H, W)."""
    published = network.pretrained_cfg
    mean, std = (torch.tensor(published[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps = network.forward_features((x / 255 - mean) / std)
        features: Tensor = network.forward_head(maps, pre_logits=True)
    return features


@pytest.mark.parametrize("name", BLOCKS)
def test_features_are_what_timm_hands_to_its_classifier(name: str, tmp_path: Path) -> None:
    own, x = own_network(name), images(2, side(name))
    expected = own_features(own, x)
    assert expected.std(dim=0).mean() > 1e-3 * expected.std()  # they tell images apart
    torch.save(own.state_dict(), tmp_path / "w.pth")
    cfg = config(name, tmp_path / "w.pth")
    network = SmearNetwork(build_backbone(cfg), 4, cfg).eval()
    assert len(network.prefix.blocks) == BLOCKS[name]
    allowed = 1e-4 * float(expected.abs().max())
    with torch.no_grad():
        torch.testing.assert_close(network.prefix(x), expected, rtol=0, atol=allowed)
    # A checkpoint's network is built empty; what is in no state dict must be there all the same.
    again = SmearNetwork(empty_backbone(cfg), 4, cfg).eval()
    again.load_state_dict(network.state_dict(), strict=True, assign=True)
    assert torch.equal(again(x), network(x))
    if name in EXPORTED:
        made = make_engine("onnxruntime", network.prefix, side(name), CPU)
        channels_last = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
        exported = torch.from_numpy(made.forward(channels_last))
        torch.testing.assert_close(exported, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("unfreeze", [1, 3, "all"])
def test_trained_blocks_alone_change(unfreeze: int | str) -> None:
    cfg = config("test_vit", unfreeze=unfreeze)
    network = SmearNetwork(build_backbone(cfg), 4, cfg).train()
    trained = [*network.trunk.parameters(), *network.head.parameters()]
    frozen = {k: v.clone() for k, v in network.prefix.state_dict().items()}
    assert bool(frozen) == (unfreeze != "all")
    before = [p.detach().clone() for p in trained]
    loss: Any = nn.functional.cross_entropy(network(images(2)), torch.tensor([0, 1]))
    loss.backward()
    torch.optim.SGD(trained, lr=1.0).step()
    assert all(torch.equal(v, frozen[k]) for k, v in network.prefix.state_dict().items())
    changed = [not torch.equal(p, old) for p, old in zip(trained, before, strict=True)]
    assert np.mean(changed) > 0.9
    # Each parameter belongs to one block, and none to the classifier that was left out.
    own = timm.create_model("test_vit", img_size=64, num_classes=0)
    kept = [*network.prefix.parameters(), *network.trunk.parameters()]
    assert sum(p.numel() for p in kept) == sum(p.numel() for p in own.parameters())


class Sequence(nn.Module):
    """A network with something between its layers that no layer does."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.one(x)
        if self.kind == "in place":
            x.relu_()
        elif self.kind == "twice":
            x = self.two(x)
        elif self.kind == "sum":
            x = x + 1
        result: Tensor = self.two(x)
        return result + x.mean() if self.kind == "beside" else result

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x.mean((2, 3))


@pytest.mark.parametrize("kind", ["in place", "beside", "twice", "sum"])
def test_a_step_outside_of_layers_is_noticed(kind: str) -> None:
    with torch.device("meta"):
        assert trace(Sequence("plain"), 32).links == ("one", "two")
        layout = trace(Sequence(kind), 32)
    assert (layout.links, layout.features) == ((), 4)


def test_images_are_normalised_as_each_networks_weights_want() -> None:
    for name in ("mobilenetv1_100", "resnet10t", "mobilevit_xxs"):
        published = timm.get_pretrained_cfg(name)
        assert normalization(config(name)) == (list(published.mean), list(published.std))
    assert normalization(config("mobilenetv1_100"))[0] == [0.5] * 3


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_of_another_image_size_serve_a_transformer(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = timm.create_model("test_vit", img_size=160).state_dict()
    file = tmp_path / f"w.{kind}"
    save_file(state, file) if kind == "safetensors" else torch.save(state, file)
    blocks = build_backbone(config("test_vit", file)).blocks
    given = {k: v for k, v in blocks.state_dict().items() if "pos_embed" in k}
    assert [v.shape[1] for v in given.values()] == [1 + 16]
    assert torch.equal(
        blocks[1].get_parameter("attn.qkv.weight"), state["blocks.0.attn.qkv.weight"]
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("lacking", "does not fit test_resnet: Missing key.*layer1.0.conv1.weight"),
     ("shape", "does not fit test_resnet: size mismatch for conv1"), ("empty", "not a plain state"),
     ("text", "not a PyTorch state dict"), ("other", "does not fit test_resnet")],
)  # fmt: skip
def test_weights_that_cannot_serve_are_an_error_in_one_line(
    kind: str, reason: str, tmp_path: Path
) -> None:
    state = timm.create_model("test_resnet").state_dict()
    file = tmp_path / ("w.safetensors" if kind == "text" else "w.pth")
    if kind == "lacking":
        del state["layer1.0.conv1.weight"]
    elif kind == "shape":
        key = next(key for key in state if key.startswith("conv1") and state[key].ndim == 4)
        state[key] = torch.zeros(5, 3, 3, 3)
    elif kind == "other":
        state = timm.create_model("test_convnext").state_dict()
    torch.save({} if kind == "empty" else state, file)
    if kind == "text":
        file.write_text("not weights\n")
    with pytest.raises(BcdError, match=reason) as caught:
        build_backbone(config("test_resnet", file))
    assert str(caught.value).startswith(f"model.weights={file}")
    assert "\n" not in str(caught.value)


def test_without_a_network_imagenet_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **settings: object) -> NoReturn:
        raise OSError("no network here\nsecond line")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", no_network)
    with pytest.raises(BcdError, match=r"could not be downloaded \(no network here\)") as caught:
        build_backbone(config("mobilenetv1_100", "imagenet"))
    assert "timm/mobilenetv1_100" in str(caught.value)
    assert "model.safetensors" in str(caught.value)
    assert "model.weights=<its path>" in str(caught.value)
    with pytest.raises(ConfigError, match=r"imagenet: timm has none for .*weights=null"):
        build_backbone(config("levit_512_s8", "imagenet"))


def test_downloaded_weights_arrive_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    own = own_network("test_resnet")
    save_file(own.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "timm.models._hub.hf_hub_download", lambda *_, **__: str(tmp_path / "model.safetensors")
    )
    cfg = config("test_resnet", "imagenet")
    network, x = SmearNetwork(build_backbone(cfg), 4, cfg).eval(), images(2)
    torch.testing.assert_close(network.prefix(x), own_features(own, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "pixels", "line"),
    [("mobilenetv1_10", 64, "timm has no network of that name; did you mean 'mobilenetv1_100'"),
     ("convnext_tiny_in22k", 64, "timm has no network of that name; did you mean 'convnext_tiny"),
     ("resnet18.a4_in1k", 64, "timm has no network of that name; did you mean 'resnet18.a"),
     ("test_vit", 100, "input_size=100: test_vit does not accept it.*multiple of 16.*160 pixels"),
     ("inception_v3", 64, "input_size=64: inception_v3 does not accept it.*299 pixels")],
)  # fmt: skip
def test_what_timm_cannot_do_is_told_before_anything_is_built(
    name: str, pixels: int, line: str
) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        check_backbone(
            with_defaults(
                ModelConfig, backbone=name, weights=None, input_size=pixels, library="timm"
            )
        )
    assert "\n" not in str(caught.value)


def test_the_size_of_its_own_weights_serves_whatever_it_leaves_over() -> None:
    name = "vit_so400m_patch14_siglip_384"
    check_backbone(
        with_defaults(ModelConfig, backbone=name, weights=None, input_size=384, library="timm")
    )
    with pytest.raises(ConfigError, match="it must be a multiple of 14"):
        check_backbone(
            with_defaults(ModelConfig, backbone=name, weights=None, input_size=400, library="timm")
        )


def test_without_timm_the_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("bcd.models.backbones.timm", "bcd.commands.models"):
        monkeypatch.setattr(f"{place}.find_spec", lambda name: None)
    every = {name: cfg for name, cfg in shipped().items() if name in ("cnn", "mobilenetv1", "timm")}
    monkeypatch.setattr("bcd.commands.models.shipped", lambda: every)
    with pytest.raises(ConfigError, match=r"model.library=timm requires pip install timm"):
        check_backbone(config("test_vit"))
    assert main([]) == 0
    listed = capsys.readouterr().err
    assert "not listed: mobilenetv1, timm (pip install timm)" in listed
    assert " cnn " in listed


def test_the_table_takes_names_of_timm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mobilenetv1", "test_vit", "timm/resnet18", "resnet18"]) == 0
    lines = capsys.readouterr().err.splitlines()
    rows = {line.split()[1]: line.split() for line in lines if "│" in line}
    assert [rows["test_vit"][i] for i in (9, 11, 13, 15)] == ["160", "64", "7", "-"]
    assert (rows["mobilenetv1"][3], rows["mobilenetv1"][6]) == ("3.2", "0.57")
    assert rows["timm/resnet18"][9] == "288"
    assert (rows["resnet18"][9], rows["resnet18"][15]) == ("224", "69.8")


def test_a_bank_knows_the_library_and_its_version() -> None:
    cfg = config("test_resnet")
    prefix = SmearNetwork(build_backbone(cfg), 2, cfg).prefix
    facts = plain_key(cfg, prefix, "torch", "float32", False).facts
    assert (facts["backbone"], facts["versions"]["timm"]) == ("timm/test_resnet", timm.__version__)


def test_a_head_of_norms_alone_is_no_block_of_its_own() -> None:
    blocks = empty_backbone(config("test_convnext")).blocks
    last = blocks[-1]
    assert isinstance(last, nn.Sequential)
    assert isinstance(last[-1], End)
