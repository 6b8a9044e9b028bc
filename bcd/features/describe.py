"""Descriptors of images for out-of-distribution detection, from the feature bank if it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.schema import FeaturesConfig, ModelConfig
from bcd.data.loading import make_loader
from bcd.data.views import ImageViews, Key
from bcd.features.cached import Need, bank_of
from bcd.models.network import SmearNetwork

_BATCH = 16


def describe(
    cfg: FeaturesConfig,
    model: ModelConfig,
    network: SmearNetwork,
    source: ImageViews,
    keys: Sequence[Key],
    device: torch.device,
) -> NDArray[np.float32]:
    """Computes the out-of-distribution descriptors of views.

    Args:
        cfg: The `features` group.
        model: The `model` group that the network was built from.
        network: Its descriptor is used.
        source: The images.
        keys: Of the views.
        device: Where to compute.

    Returns:
        (n, d), in the order of the keys.

    Raises:
        BcdError: The feature bank cannot be built.
    """
    first = source.described()
    cfg = replace(cfg, dtype="float32")  # the same descriptors whatever the features' precision
    found = np.empty((len(keys), network.descriptor.features), np.float32)
    if cfg.bank:
        by_view: dict[int, list[int]] = {}
        for index, view in keys:
            by_view.setdefault(view, []).append(index)
        needs = [Need(indices, (view,)) for view, indices in by_view.items()]
        banked = bank_of(cfg, model, network.descriptor, first, needs, device)
        for row, key in enumerate(keys):
            found[row] = banked[key][0].numpy()
        return found
    descriptor, done = network.descriptor.to(device), 0
    order: Any = list(keys)
    for inputs, labels in make_loader(first, order, _BATCH, None):
        place = slice(done, done + len(labels))
        found[place] = descriptor(inputs.to(device, non_blocking=True)).float().cpu().numpy()
        done += len(labels)
    return found
