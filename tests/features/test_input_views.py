"""Each input view has its own bank; the features of all are side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcd.config.schema import ModelConfig
from bcd.data.reading import read_verified
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.features.bank import all_banks
from bcd.features.cache_key import input_key, plain_key
from bcd.features.extract import Extractor, Work
from bcd.models.backbones.blocks import pool
from bcd.models.backbones.build import Backbone
from bcd.models.network import SmearNetwork
from tests.helpers.banking import FLIP, SIZE, draw_images, fill, list_images, make_source
from tests.helpers.banking import small_network as plain_network

VIEWS = ("plain", "grey", "plain@48", "reinhard@48")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "cache"))
    draw_images(tmp_path / "in", 8)
    return tmp_path / "in"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Counter[tuple[str, int]]]:
    """How many features of each input view an extraction computed."""
    runs: list[Counter[tuple[str, int]]] = []
    run = Extractor.run

    def recorded(self: Extractor, works: Sequence[Work]) -> None:
        count: Counter[tuple[str, int]] = Counter()
        for work in works:
            count[(work.input_view.normalization, work.input_view.side)] += work.rows
        runs.append(count)
        run(self, works)

    monkeypatch.setattr(Extractor, "run", recorded)
    return runs


def source_of(
    folder: Path, views: Sequence[str], transforms: list[Any] | None = None
) -> ImageViews:
    plain = make_source(folder, list_images(folder), transforms)
    return ImageViews(folder, plain.images, SIZE, plain.augmenter, views=views)


def network_of(views: Sequence[str]) -> tuple[SmearNetwork, ModelConfig]:
    """The small network with the same blocks for any views."""
    plain, cfg = plain_network()
    cfg = replace(cfg, views=list(views))
    return SmearNetwork(Backbone(plain.prefix.blocks, 4), 2, cfg).eval(), cfg


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_features_of_all_views_are_side_by_side(engine: str, folder: Path) -> None:
    source = source_of(folder, VIEWS)
    network, model = network_of(VIEWS)
    assert network.head.in_features == 4 * len(VIEWS)
    cached = fill(source, network, model, engine=engine)
    mean, std = (network.prefix.get_buffer(name) for name in ("mean", "std"))
    for key in [(0, 0), (3, 2), (7, PLAIN)]:
        batch, _ = source.collate([source[key]])
        with torch.no_grad():
            together = network.prefix(batch)[0]
        features = cached[key][0]
        torch.testing.assert_close(features, together, atol=1e-5, rtol=1e-5)
        for place, view in enumerate(VIEWS):  # each as if it were alone
            image, _ = source_of(folder, [view]).collate([source_of(folder, [view])[key]])
            with torch.no_grad():
                own = pool(network.prefix.blocks((image.float() / 255 - mean) / std))[0]
            part = features[4 * place : 4 * place + 4]
            torch.testing.assert_close(part, own, atol=1e-5, rtol=1e-5)


def test_changing_a_view_computes_that_one_alone(
    folder: Path, computed: list[Counter[tuple[str, int]]]
) -> None:
    def use(views: Sequence[str]) -> Any:
        network, model = network_of(views)
        return fill(source_of(folder, views, []), network, model)

    first = use(VIEWS)
    assert computed == [
        {("plain", SIZE): 8, ("grey", SIZE): 8, ("plain", 48): 8, ("reinhard", 48): 8}
    ]
    changed = use(("plain", "white_balanced", "plain@48", "reinhard@48"))
    assert computed[1:] == [{("white_balanced", SIZE): 8}]
    assert torch.equal(changed[(2, PLAIN)][0][:4], first[(2, PLAIN)][0][:4])
    assert not torch.equal(changed[(2, PLAIN)][0][4:8], first[(2, PLAIN)][0][4:8])
    reordered = use(("plain@48", "plain"))
    assert len(computed) == 2
    expected = torch.cat([first[(1, PLAIN)][0][8:12], first[(1, PLAIN)][0][:4]])
    assert torch.equal(reordered[(1, PLAIN)][0], expected)


def test_the_plain_view_shares_the_bank_of_runs_without_views(
    folder: Path, computed: list[Counter[tuple[str, int]]]
) -> None:
    network, model = plain_network()
    fill(make_source(folder, list_images(folder)), network, model)
    network, model = network_of(("grey", "plain"))
    fill(source_of(folder, ("grey", "plain")), network, model)
    assert set(computed[1]) == {("grey", SIZE)}
    # The key of the plain view is the one of the time before there were views.
    key = plain_key(model, network.prefix, "torch", "float32", False)
    assert input_key(key, model.input_views()[1]) == key
    assert "input_view" not in key.facts


def test_constants_of_a_normalization_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    network, model = network_of(("reinhard", "white_balanced"))
    plain = plain_key(model, network.prefix, "torch", "float32", False)
    before = [input_key(plain, view).key for view in model.input_views()]
    constants = {"reinhard": {"mean": [80, 7, -2]}, "white_balanced": {"white": 230}}
    monkeypatch.setattr("bcd.data.input_views._CONSTANTS", constants)
    after = [input_key(plain, view).key for view in model.input_views()]
    assert before[0] != after[0]
    assert len({plain.key, *before, *after}) == 5


def test_an_image_is_decoded_once_for_all_views(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()

    def counted(path: Path, sha256: str) -> Any:
        decoded[path.name] += 1
        return read_verified(path, sha256)

    monkeypatch.setattr("bcd.data.views.read_verified", counted)
    monkeypatch.setattr(Extractor, "_announce", lambda *_: 16)
    network, model = network_of(VIEWS)
    fill(source_of(folder, VIEWS, FLIP), network, model)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 8


def test_an_extraction_that_was_interrupted_ends_with_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def banks() -> dict[str, bytes]:
        shards = [file for bank in all_banks() for file in bank.folder.glob("*.npy")]
        return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in shards}

    monkeypatch.setattr("bcd.features.extract._SHARD_IMAGES", 2)
    network, model = network_of(VIEWS)
    fill(source_of(folder, VIEWS, []), network, model)
    expected = banks()
    assert len(expected) == 4 * 4
    monkeypatch.setenv("BCD_CACHE", str(tmp_path / "again"))
    keep, kept = Extractor._fill, [0]

    def interrupted(self: Extractor, *arguments: Any) -> None:
        kept[0] += 1
        if kept[0] == 15:  # after some shards of some views
            raise KeyboardInterrupt
        keep(self, *arguments)

    monkeypatch.setattr(Extractor, "_fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(source_of(folder, VIEWS, []), network, model)
    assert 0 < len(banks()) < len(expected)
    monkeypatch.setattr(Extractor, "_fill", keep)
    fill(source_of(folder, VIEWS, []), network, model)
    assert banks() == expected


def test_augmented_views_are_cached_for_each_input_view(folder: Path) -> None:
    network, model = network_of(("grey", "plain@48"))
    source = source_of(folder, ("grey", "plain@48"), FLIP)
    cached = fill(source, network, model)
    assert len(list(all_banks())) == 4  # drawn and plain, of each
    assert isinstance(source.augmenter, Augmenter)
    assert not np.array_equal(cached[(0, 0)][0], cached[(1, 0)][0])
