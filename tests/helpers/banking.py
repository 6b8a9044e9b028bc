"""A small catalog, a small network and a bank of its own for tests, also in other processes."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from bcd.config.compose import with_defaults
from bcd.config.schema import AugmentConfig, FeaturesConfig, ModelConfig
from bcd.data.catalog import ImageRecord
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.features.cached import BankedViews, Need, cached_source
from bcd.models.backbones.build import Backbone
from bcd.models.network import SmearNetwork

SIZE = 32
FLIP = [{"_target_": "albumentations.HorizontalFlip", "p": 0.5}]
SHIFT = [{"_target_": "albumentations.RandomBrightnessContrast", "p": 1.0}]


def draw_images(folder: Path, count: int) -> list[ImageRecord]:
    """Writes images of noise and lists them, with two classes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return list_images(folder)


def list_images(folder: Path) -> list[ImageRecord]:
    return [
        ImageRecord(f.name, i % 2, hashlib.sha256(f.read_bytes()).hexdigest(), SIZE, SIZE)
        for i, f in enumerate(sorted(folder.glob("*.png")))
    ]


def small_network(unfreeze: int = 0, seed: int = 0) -> tuple[SmearNetwork, ModelConfig]:
    """Three blocks of random weights, the last `unfreeze` of them trained."""
    cfg = with_defaults(
        ModelConfig, backbone="cnn", weights=None, input_size=SIZE, unfreeze=unfreeze
    )
    torch.manual_seed(seed)
    blocks = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()),
    )
    for module in blocks.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return SmearNetwork(Backbone(blocks, 4), 2, cfg).eval(), cfg


def make_source(
    folder: Path, images: list[ImageRecord], transforms: list[Any] | None = None, seed: int = 0
) -> ImageViews:
    augment = with_defaults(
        AugmentConfig, views=5, transforms=FLIP if transforms is None else transforms
    )
    return ImageViews(folder, images, SIZE, Augmenter(augment, seed))


def fill(
    source: ImageViews,
    network: SmearNetwork,
    model: ModelConfig,
    views: int = 3,
    training: bool = False,
    **features: Any,
) -> BankedViews:
    """Feeds from a bank: the first half is trained on, the rest watched; returns the source."""
    cfg = with_defaults(FeaturesConfig, **{"engine": "torch", **features})
    half = len(source) // 2
    needs = [
        Need(range(half), range(views)),
        Need(range(half, len(source)), (PLAIN,)),
    ]
    cpu = torch.device("cpu")
    with cached_source(cfg, model, network, source, needs, cpu, training) as cached:
        assert isinstance(cached, BankedViews)
        return cached


def fill_in_another_process(folder: str, cache: str, pause: float = 0) -> None:
    """What the tests kill: fills the bank of all images in a folder, in tiny shards.

    Args:
        folder: Of the images.
        cache: Holds the bank.
        pause: Seconds that each call of the engine takes longer.
    """
    import os

    from bcd.features import extract

    def stored(self: Any, features: Any) -> Any:
        time.sleep(pause)
        return features

    os.environ["BCD_CACHE"] = cache
    extract._SHARD_IMAGES = 4
    extract.Extractor._stored = stored  # type: ignore[method-assign]
    images = list_images(Path(folder))
    network, model = small_network()
    fill(make_source(Path(folder), images), network, model)
