"""The bank gives what the network would have given, and never what another one would."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcd.config.compose import with_defaults
from bcd.config.schema import FeaturesConfig, ModelConfig
from bcd.data.catalog import ImageRecord
from bcd.data.views import PLAIN
from bcd.errors import BcdError
from bcd.features.bank import all_banks
from bcd.features.cached import Need, cached_source
from bcd.features.engines import Engine, make_engine
from bcd.features.extract import Extractor, Work
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from tests.helpers.banking import (
    FLIP,
    SHIFT,
    SIZE,
    draw_images,
    fill,
    list_images,
    make_source,
    small_network,
)

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    draw_images(tmp_path / "in", 12)
    return tmp_path / "in"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, tuple[int, ...]]]]:
    """What each extraction computed: (index, views) of its images."""
    rows: list[list[tuple[int, tuple[int, ...]]]] = []
    run = Extractor.run

    def recorded(self: Extractor, works: list[Work]) -> None:
        rows.append([(i, work.views) for work in works for i in work.indices])
        run(self, works)

    monkeypatch.setattr(Extractor, "run", recorded)
    return rows


@pytest.mark.parametrize("unfreeze", [0, 1])
def test_features_are_what_the_prefix_gives(folder: Path, unfreeze: int) -> None:
    source = make_source(folder, list_images(folder))
    network, model = small_network(unfreeze)
    cached = fill(source, network, model)
    for key in [(0, 0), (0, 2), (3, 1), (7, PLAIN), (11, PLAIN)]:
        pixels, label = source[key]
        with torch.no_grad():
            expected = network.prefix(pixels[None].permute(0, 3, 1, 2))[0]
        features, same_label = cached[key]
        assert features.shape == expected.shape
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
        assert label == same_label


def test_the_network_takes_features_inside_the_block_and_images_outside(folder: Path) -> None:
    source = make_source(folder, list_images(folder))
    network, model = small_network(1)
    pixels, _ = source.collate([source[(0, PLAIN)], source[(1, PLAIN)]])
    with torch.no_grad():
        expected = network(pixels)
    needs = [Need([0, 1], (PLAIN,))]
    with cached_source(
        with_defaults(FeaturesConfig, engine="torch"), model, network, source, needs, CPU
    ) as cached:
        features, _ = cached.collate([cached[(0, PLAIN)], cached[(1, PLAIN)]])
        with torch.no_grad():
            assert torch.allclose(network(features), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(network(pixels), expected)


@pytest.mark.parametrize(("bank", "unfreeze"), [(False, 0), (True, 3)])
def test_without_a_bank_or_anything_frozen_images_are_fed(
    bank: bool, unfreeze: int, folder: Path
) -> None:
    source = make_source(folder, list_images(folder))
    network, model = small_network(unfreeze)
    needs = [Need([0], (PLAIN,))]
    with cached_source(
        with_defaults(FeaturesConfig, bank=bank), model, network, source, needs, CPU
    ) as cached:
        assert cached is source
        assert not network.prefix.skipped


def test_a_second_run_computes_nothing(folder: Path, computed: list[Any]) -> None:
    network, model = small_network()
    for _ in range(2):
        fill(make_source(folder, list_images(folder)), network, model)
    assert len(computed) == 1


def test_views_that_chance_left_alike_run_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(folder, list_images(folder), FLIP)
    network, model = small_network()
    seen: list[bytes] = []

    def recorded(*arguments: Any) -> Engine:
        engine = make_engine(*arguments)

        def forward(images: Any) -> Any:
            seen.extend(image.tobytes() for image in images)
            return engine.forward(images)

        return dataclasses.replace(engine, forward=forward)

    monkeypatch.setattr("bcd.features.cached.make_engine", recorded)
    monkeypatch.setattr(Extractor, "_announce", lambda *_: 4 * network.head.in_features)
    cached = fill(source, network, model, views=8)
    different = {source[(i, v)][0].numpy().tobytes() for i in range(6) for v in range(8)}
    assert len(different) == 12  # mirrored and not, of each
    assert len(seen) == 12 + 6
    for key in [(i, v) for i in range(6) for v in range(8)]:
        with torch.no_grad():
            expected = network.prefix(source[key][0][None].permute(0, 3, 1, 2))[0]
        torch.testing.assert_close(cached[key][0], expected, atol=1e-5, rtol=1e-5)


def change_a_pixel(folder: Path) -> None:
    pixels = np.array(Image.open(folder / "003.png"))
    pixels[5, 5, 0] ^= 255
    Image.fromarray(pixels).save(folder / "003.png")


@pytest.mark.parametrize(
    ("change", "recomputed"),
    [
        ("pixel", {(3, (0, 1, 2))}),
        ("augmentation", {(i, (0, 1, 2)) for i in range(6)}),
        ("seed", {(i, (0, 1, 2)) for i in range(6)}),
        ("weight", "all"),
        ("buffer", "all"),
        ("structure", "all"),
        ("prefix", "all"),
        ("dtype", "all"),
        ("engine", "all"),
        ("more views", {(i, (3, 4)) for i in range(6)}),
        ("fewer views", set()),
        ("copy", set()),
    ],
)
def test_whatever_a_feature_depends_on_makes_it_anew(
    change: str, recomputed: Any, folder: Path, computed: list[Any]
) -> None:
    network, model = small_network()
    fill(make_source(folder, list_images(folder)), network, model)
    options: dict[str, Any] = {}
    views = {"more views": 5, "fewer views": 2}.get(change, 3)
    transforms = SHIFT if change == "augmentation" else FLIP
    if change == "pixel":
        change_a_pixel(folder)
    elif change == "copy":
        shutil.copy(folder / "003.png", folder / "004.png")
    elif change == "weight":
        network.prefix.blocks[1][0].weight.data[0, 0, 0, 0] += 1e-6  # type: ignore[index]
    elif change == "buffer":
        network.prefix.blocks[1][1].running_mean[0] += 1e-6  # type: ignore[index]
    elif change == "structure":
        network.prefix.blocks[2][2] = torch.nn.ReLU6()  # type: ignore[operator]
    elif change == "prefix":
        network, model = small_network(unfreeze=1)
    elif change in ("dtype", "engine"):
        options = {"dtype": {"dtype": "float16"}, "engine": {"engine": "onnxruntime"}}[change]
    source = make_source(folder, list_images(folder), transforms, int(change == "seed"))
    cached = fill(source, network, model, views, **options)
    done = {item for run in computed[1:] for item in run}
    everything = {(i, (0, 1, 2)) for i in range(6)} | {(i, (PLAIN,)) for i in range(6, 12)}
    assert done == (everything if recomputed == "all" else recomputed)
    tolerance = 1e-2 if change == "dtype" else 1e-5
    for key in [(3, 0), (4, 1), (8, PLAIN)]:
        pixels, _ = source[key]
        with torch.no_grad():
            expected = network.prefix(pixels[None].permute(0, 3, 1, 2))[0]
        torch.testing.assert_close(cached[key][0], expected, atol=tolerance, rtol=tolerance)


def test_without_augmentation_every_view_is_the_image(folder: Path, computed: list[Any]) -> None:
    network, model = small_network()
    cached = fill(make_source(folder, list_images(folder), []), network, model)
    assert [len(run) for run in computed] == [12]
    assert cached[(0, 0)][0].equal(cached[(0, 2)][0])


def test_an_image_that_changes_during_the_run_is_not_cached(folder: Path) -> None:
    images = list_images(folder)
    change_a_pixel(folder)
    network, model = small_network()
    with pytest.raises(BcdError, match=r"003\.png has changed"):
        fill(make_source(folder, images), network, model)
    (folder / "003.png").unlink()
    with pytest.raises(BcdError, match=r"003\.png cannot be read"):
        fill(make_source(folder, images), network, model)


def test_numbers_that_float16_cannot_hold_are_refused(folder: Path) -> None:
    network, model = small_network()
    network.prefix.blocks[2][0].weight.data *= 1e6  # type: ignore[index]
    source = make_source(folder, list_images(folder))
    with pytest.raises(BcdError, match=r"features\.dtype=float32"):
        fill(source, network, model, dtype="float16")
    assert fill(source, network, model)[(0, 0)][0].isfinite().all()


def test_a_wrong_transform_is_one_line(folder: Path) -> None:
    network, model = small_network()
    images: list[ImageRecord] = list_images(folder)
    wrong = [{"_target_": "albumentations.RandomBrightnessContrast", "brightnes_limit": 0.5}]
    with pytest.raises(BcdError, match=r"transforms\.0\.brightnes_limit.*'brightness_limit'"):
        fill(make_source(folder, images, wrong), network, model)


@pytest.mark.parametrize("unfreeze", [0, 4])
@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_engines_give_what_the_prefix_gives(name: str, unfreeze: int) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    cfg = with_defaults(
        ModelConfig, backbone="mobilenet_v2", weights=None, input_size=SIZE * 2, unfreeze=unfreeze
    )
    torch.manual_seed(0)
    network = SmearNetwork(build_backbone(cfg), 4, cfg).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.4)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    pixels = np.random.default_rng(0).integers(0, 255, (3, 2 * SIZE, 2 * SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network.prefix(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    engine = make_engine(name, network.prefix, SIZE * 2, CPU)
    for count in (3, 1):
        given = engine.forward(pixels[:count])
        assert given.dtype == np.float32
        scale = np.abs(expected).max()
        np.testing.assert_allclose(given, expected[:count], atol=2e-5 * scale, rtol=1e-3)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_an_engine_that_is_not_installed_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcd.features import engines

    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    network, model = small_network()
    with pytest.raises(BcdError, match=r"pip install openvino"):
        fill(make_source(folder, list_images(folder)), network, model, engine="openvino")


def test_what_onnxruntime_cannot_run_goes_to_torch_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> Engine:
        raise RuntimeError("no operator Foo\nand more")

    monkeypatch.setattr("bcd.features.engines._onnxruntime", refuse)
    network, model = small_network()
    source = make_source(folder, list_images(folder))
    reason = r"engine=onnxruntime cannot run this network \(no operator Foo\): set \S+torch$"
    with pytest.raises(BcdError, match=reason):
        fill(source, network, model, engine="onnxruntime")
    given = fill(source, network, model, engine="auto")
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot run" in line]
    assert len(said) == 1
    assert said[0].endswith("(no operator Foo); using torch instead")
    expected = fill(source, network, model, engine="torch")
    assert torch.equal(given[(0, 0)][0], expected[(0, 0)][0])
    keys = [(bank.folder / "cache_key.json").read_text() for bank in all_banks()]
    assert keys and all("torch" in key for key in keys)


def test_features_config_takes_no_other_engine() -> None:
    with pytest.raises(BcdError, match=r"features\.engine=onnx.*onnxruntime"):
        dataclasses.replace(with_defaults(FeaturesConfig), engine="onnx")
