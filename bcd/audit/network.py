"""The network's own score, to stand beside the shortcuts'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcd.config.schema import AugmentConfig, DataConfig, FeaturesConfig, ModelConfig
from bcd.data.catalog import Catalog
from bcd.data.views import PLAIN, Augmenter, ImageViews
from bcd.evaluation.collect import choose_device
from bcd.features.cached import Need, feed
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork


def frozen_features(
    catalog: Catalog, data: DataConfig, model: ModelConfig, features: FeaturesConfig, device: str
) -> NDArray[np.float32]:
    """Pooled features of every image from the frozen network, (n, channels), through the bank.

    Raises:
        BcdError: The weights cannot be had.
    """
    frozen = ModelConfig(**{**vars(model), "unfreeze": 0})
    network = SmearNetwork(build_backbone(frozen), len(catalog.classes), frozen).eval()
    views = ImageViews(
        catalog.root,
        catalog.images,
        model.input_size,
        Augmenter(AugmentConfig(), 0),
        data.mask_scale_bar,
        catalog.kept,
    )
    needs = [Need(range(len(catalog.images)), (PLAIN,))]
    # Without a bank there is nothing to take features from; this one is shared with training.
    banked = FeaturesConfig(**{**vars(features), "bank": True})
    with feed(banked, frozen, network, views, needs, choose_device(device)) as source:
        rows = [source[(i, PLAIN)][0].numpy() for i in range(len(catalog.images))]
    return np.stack(rows)
