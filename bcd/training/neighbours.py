"""Nearest training images of a run's test answers, by the features that its head sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.training import FULL
from bcd.console import track
from bcd.data.datamodule import SmearDataModule
from bcd.data.loading import make_loader
from bcd.data.views import PLAIN, Key
from bcd.evaluation.examples import Examples, choose_examples
from bcd.evaluation.neighbours import NearestSearch, Neighbour
from bcd.evaluation.results import Result
from bcd.models.network import SmearNetwork
from bcd.training.build import Run, cached_views

_BATCH = 64
_PART = 4096  # training images whose features are in memory at a time
_VIEWS = 5  # views of a training image whose features are averaged, at most


@dataclass(frozen=True)
class Shown:
    """The test answers that a report shows.

    Attributes:
        examples: Rows of the test answers.
        neighbours: Nearest training image by row; empty if the features were not computed.
    """

    examples: Examples
    neighbours: Mapping[int, Neighbour]


def find_shown(
    run: Run,
    network: SmearNetwork,
    datamodule: SmearDataModule,
    test: Result,
    epochs: int,
    device: torch.device,
) -> Shown:
    """Chooses the answers to show, and finds the nearest training image of each.

    Images are compared by the input of the head: what the head sees as similar it answers alike,
    so the nearest training image shows what an answer may rest on. The descriptors for
    out-of-distribution detection come from earlier blocks and reflect stain and light.

    If nothing but the head is trained and there is a feature bank, it has these features of every
    training image, and the mean over its views is taken. Otherwise the network would have to run on
    all training images once more, which only `report=full` does.

    Args:
        run: The run, within `cached_features`.
        network: With the best weights.
        datamodule: Gives the images, or their cached features.
        test: Answers for the test images.
        epochs: Number of epochs, as given to `cached_features`.
        device: Where to compute.
    """
    full = run.cfg.report == FULL
    examples = choose_examples(test.probabilities, test.labels, full)
    banked = datamodule.source is not datamodule.images
    free = banked and not len(network.trunk)
    if not examples.rows or not (free or full):
        return Shown(examples, {})
    views = [PLAIN]
    if banked:
        views = list(cached_views(datamodule, epochs))[: _VIEWS if free else 1]
    train, tested = run.split.indices("train"), run.split.indices("test")
    asked = [(tested[row], PLAIN) for row in examples.rows]
    search = NearestSearch(_head_inputs(network, datamodule, asked, device))
    parts = -(-len(train) // _PART)
    text = "" if free else "Features of train"
    for part in range(parts):  # each evenly spaced, as the first one determines the centre
        own = train[part::parts]
        keys = [(i, view) for i in own for view in views]
        features = _head_inputs(network, datamodule, keys, device, text)
        search.add(features.reshape(len(own), len(views), -1).mean(axis=1), own)
    return Shown(examples, dict(zip(examples.rows, search.found, strict=True)))


@torch.inference_mode()
def _head_inputs(
    network: SmearNetwork,
    datamodule: SmearDataModule,
    keys: Sequence[Key],
    device: torch.device,
    description: str = "",
) -> NDArray[np.float32]:
    """Input of the head for each view, (n, features); with a progress bar if it has a text."""
    order: Any = list(keys)
    loader = make_loader(datamodule.source, order, _BATCH, None)
    batches = track(loader, description, len(loader)) if description else loader
    network.eval().to(device)
    found = [network.vectors(x.to(device, non_blocking=True)).float().cpu() for x, _ in batches]
    return np.asarray(torch.cat(found).numpy(), np.float32)
