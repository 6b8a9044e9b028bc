"""What is known of torchvision's networks, how their weights fit, and the table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

from bcd.commands.models import count_multiply_adds, main, shipped
from bcd.config.compose import with_defaults
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.inference.checkpoint import load_checkpoint
from bcd.models.backbones.blocks import KINDS, pool
from bcd.models.backbones.build import BACKBONES, build_backbone, empty_backbone, normalization
from bcd.models.backbones.torchvision import published, resized_positions
from bcd.models.network import SmearNetwork
from bcd.run_folder import find_checkpoint
from bcd.training.run import train
from tests.helpers.harness import CONF, SMALL, train_config, verb
from tests.models.test_models import images
from tests.models.test_zoo import BLOCKS, TORCHVISION

# Files of conf/model that name no network of torchvision, and their blocks.
OTHERS = {"mobilenetv1_100": 6, "resnet10t": 7, "hybrid": 1}


@pytest.mark.parametrize("extra", [True, False])
def test_auxiliary_heads_may_be_in_a_state_dict_or_not(extra: bool, tmp_path: Path) -> None:
    state = get_model("googlenet", weights=None, init_weights=True).state_dict()
    assert any(k.startswith("aux1.") for k in state)
    if not extra:
        state = {k: v for k, v in state.items() if not k.startswith("aux")}
    torch.save(state, tmp_path / "w.pth")
    cfg = with_defaults(ModelConfig, backbone="googlenet", weights=str(tmp_path / "w.pth"))
    blocks: Any = build_backbone(cfg).blocks
    assert torch.equal(blocks[0][0].conv.weight, state["conv1.conv.weight"])
    torch.save({**state, "aux.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(BcdError, match=r"does not fit googlenet: Unexpected.*aux\.weight"):
        build_backbone(cfg)


def test_densenets_first_key_names_are_understood(tmp_path: Path) -> None:
    state = get_model("densenet121", weights=None).state_dict()
    old = {
        k.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
        if "denselayer" in k else k: v
        for k, v in state.items() if "num_batches" not in k
    }  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    blocks: Any = build_backbone(
        with_defaults(ModelConfig, backbone="densenet121", weights=str(tmp_path / "w.pth"))
    ).blocks
    layer = blocks[1].denselayer2
    assert torch.equal(layer.conv2.weight, state["features.denseblock1.denselayer2.conv2.weight"])


@pytest.mark.parametrize("pixels", [64, 224, 320])
def test_positions_are_stretched_as_torchvision_stretches_them(pixels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(1, 1 + 14 * 14, 8, generator=generator)
    given = resized_positions(table, pixels // 16)
    expected = interpolate_embeddings(pixels, 16, {"encoder.pos_embedding": table.clone()})
    torch.testing.assert_close(given, expected["encoder.pos_embedding"])


def test_weights_of_another_image_size_serve_a_transformer(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    small = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    torch.manual_seed(0)
    state = VisionTransformer(image_size=96, **small).state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "torchvision.models.get_model",
            lambda _, weights, image_size: VisionTransformer(image_size=image_size, **small),
        )
        cfg = with_defaults(
            ModelConfig, backbone="vit_b_16", weights=str(tmp_path / "w.pth"), input_size=64
        )
        backbone = build_backbone(cfg)
    network = SmearNetwork(backbone, 4, cfg).eval()
    assert network(images(2)).shape == (2, 4)
    positions = backbone.blocks[0].get_parameter("positions")
    assert torch.equal(positions, resized_positions(state["encoder.pos_embedding"], 4))


@pytest.mark.parametrize(
    ("backbone", "pixels", "wanted"),
    [("inception_v3", 64, "75 or more"), ("vit_b_16", 100, "a multiple of 16"),
     ("alexnet", 62, "63 or more"), ("vit_l_32", 48, "a multiple of 32")],
)  # fmt: skip
def test_a_size_that_a_network_cannot_take_is_one_line(
    backbone: str, pixels: int, wanted: str
) -> None:
    with pytest.raises(ConfigError, match=rf"input_size={pixels}: {backbone} requires {wanted}"):
        build_backbone(
            with_defaults(ModelConfig, backbone=backbone, weights=None, input_size=pixels)
        )


@pytest.mark.parametrize("name", ["swin_t", "maxvit_t", "mnasnet1_0"])
def test_a_network_of_another_structure_names_the_kinds_that_work(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"model\.backbone={name}: networks of the kind \w+ are not"
    ) as caught:
        build_backbone(with_defaults(ModelConfig, backbone=name, weights=None))
    assert all(kind in str(caught.value) for kind in KINDS)


def test_networks_of_every_kind_can_be_cut() -> None:
    names = ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet",
             "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
             "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "vgg11_bn",
             "vit_b_32"]  # fmt: skip
    kinds = set()
    for name in names:
        backbone = empty_backbone(
            with_defaults(ModelConfig, backbone=name, weights=None, input_size=96)
        )
        with torch.no_grad():
            given = pool(backbone.blocks.eval()(torch.empty(2, 3, 96, 96, device="meta")))
        assert given.shape == (2, backbone.features), name
        known = published(name)
        assert known is not None
        kinds.add(known.kind)
    assert kinds == set(KINDS)


def test_images_are_normalised_as_each_networks_weights_want() -> None:
    for name in (*TORCHVISION, "efficientnet_v2_l"):
        cfg = with_defaults(ModelConfig, backbone=name, weights=None)
        transforms = get_model_weights(name)["IMAGENET1K_V1"].transforms()
        expected = (transforms.mean, transforms.std)
        if name == "inception_v3":  # whose forward turns ImageNet's into these
            expected = ([0.5] * 3, [0.5] * 3)
        assert normalization(cfg) == expected
        network = SmearNetwork(empty_backbone(cfg), 2, cfg)
        for kind, values in zip(("mean", "std"), expected, strict=True):
            assert network.prefix.get_buffer(kind).flatten().tolist() == pytest.approx(values)
    assert normalization(with_defaults(ModelConfig, backbone="efficientnet_v2_l"))[0] == [0.5] * 3


def test_a_network_that_cannot_serve_is_told_before_images_are_looked_at(tmp_path: Path) -> None:
    for wrong in ("model.backbone=swin_t", "model.backbone=resnet", "model.input_size=40"):
        cfg = train_config(
            tmp_path,
            "model=torchvision",
            "model.backbone=inception_v3",
            "data.root=/nowhere",
            wrong,
        )
        with pytest.raises(ConfigError, match=r"model\.(backbone|input_size)=\w+: "):
            train(cfg)


@pytest.mark.slow
def test_a_checkpoint_brings_its_network_and_how_it_was_normalised(tmp_path: Path) -> None:
    model = ("model=torchvision", "model.backbone=googlenet", "model.weights=null")
    short = ("trainer.max_epochs=1", "augment=none", "features.engine=torch")
    done = train(train_config(tmp_path, *SMALL, f"data.root={tmp_path}/in", *model, *short))
    assert done is not None
    network, card = load_checkpoint(find_checkpoint(str(tmp_path)))
    assert (card.mean, card.std) == ([0.5] * 3, [0.5] * 3)
    x = images(2, 48)
    with torch.no_grad():
        assert torch.equal(network(x), done.classifier.network.eval()(x))


def test_the_table_counts_as_torchvision_does() -> None:
    # Those of which hardly anything is left out.
    for name in ("resnet50", "densenet201", "efficientnet_b0", "vit_b_16", "inception_v3"):
        size = 299 if name == "inception_v3" else 224
        meta = get_model_weights(name)["IMAGENET1K_V1"].meta
        counted = count_multiply_adds(
            empty_backbone(
                with_defaults(ModelConfig, backbone=name, weights=None, input_size=size)
            ),
            size,
        )
        assert counted / 1e9 == pytest.approx(meta["_ops"], rel=0.01)


def test_the_table_has_a_row_for_every_file_as_hydra_reads_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = shipped()
    assert {cfg.backbone for cfg in configs.values()} == {*BACKBONES, "resnet18", *OTHERS}
    for name, cfg in configs.items():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("train", overrides=[f"model={name}", "model.weights=null"]).model
        assert vars(cfg) == dict(composed)
    assert main([]) == 0
    lines = capsys.readouterr().err.splitlines()
    for name, cfg in configs.items():
        row = next(line for line in lines if f" {name} " in line).split()
        blocks = {**BLOCKS, **OTHERS}.get(cfg.backbone, 5)
        assert (row[9], row[13]) == (str(cfg.input_size), str(blocks)), name
    assert "76.1" in next(line for line in lines if " resnet50 " in line)


def test_the_table_takes_names_of_torchvision() -> None:
    done = verb("models", "resnet18", "efficientnet_b1")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line.split() for line in done.stderr.splitlines() if "│" in line}
    assert (rows["resnet18"][9], rows["resnet18"][15]) == ("224", "69.8")
    assert rows["efficientnet_b1"][9] == "240"  # pixels
    with pytest.raises(ConfigError, match="swin_t"):
        main(["resnet18", "swin_t"])
