"""What other light, stain, focus and files do to a model's answers: in short, and in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bcd.config.schema import FeaturesConfig, ModelConfig
from bcd.data.catalog import Catalog
from bcd.data.loading import make_loader
from bcd.data.views import PLAIN, PictureViews
from bcd.errors import BcdError
from bcd.evaluation.calibration import reliability
from bcd.evaluation.collect import check_finite, collect_answers
from bcd.evaluation.decision import Judge, referred
from bcd.evaluation.robustness_suite import (
    ShiftAugmenter,
    ShiftedViews,
    run_shifts,
    shift_table,
    shifts,
)
from bcd.features.cached import Need, feed
from bcd.features.engines import make_engine, with_engine
from bcd.models.network import FrozenPrefix, SmearNetwork

# What every training run tries on some of its test pictures, unasked.
_SHORT = (("grey", 0.0), ("jpeg", 30.0), ("gaussian blur", 1.5))
_FEW = 100  # pictures

Rows = list[dict[str, Any]]


def short_shifts(
    network: SmearNetwork,
    judge: Judge,
    catalog: Catalog,
    indices: Sequence[int],
    model: ModelConfig,
    features: FeaturesConfig,
    mask: bool,
    device: torch.device,
) -> Rows:
    """Tries three shifts on a hundred test pictures, evenly taken; through the bank where it can.

    Args:
        network: Trained.
        judge: Decided on val.
        catalog: The pictures.
        indices: Of the test part.
        model: The `model` group.
        features: The `features` group.
        mask: Whether the corner with the scale bar is covered.
        device: Where to compute.

    Returns:
        As `shift_table`.

    Raises:
        BcdError: An answer is not finite.
    """
    some = [
        indices[i] for i in np.linspace(0, len(indices) - 1, min(_FEW, len(indices))).astype(int)
    ]
    augmenter = ShiftAugmenter(_SHORT)
    source = PictureViews(catalog.root, catalog.pictures, model.input_size, augmenter, mask)
    versions = (PLAIN, *range(len(_SHORT)))
    # Activations in front of trained blocks would take more room than time.
    pooled = FeaturesConfig(**{**vars(features), "bank": features.bank and network.prefix.pooled})
    needs = [Need(some, (PLAIN,)), Need(some, versions[1:])]
    with feed(pooled, model, network, source, needs, device) as fed:
        keys: Any = [(index, version) for version in versions for index in some]
        answers = collect_answers(network, make_loader(fed, keys, 16, None), device)
    check_finite(answers)
    judged = judge.answer(answers.logits, answers.features)
    probabilities = judged.probabilities
    shape, labels = (len(versions), len(some)), answers.labels[: len(some)]
    away = referred(judged.reasons).reshape(shape)
    return shift_table(augmenter.suite, probabilities.reshape(*shape, -1), labels, _ece, away)


def all_shifts(
    name: str,
    network: SmearNetwork,
    judge: Judge,
    source: PictureViews,
    indices: Sequence[int],
    engine: str,
    device: torch.device,
) -> Rows:
    """Runs a suite of shifts on pictures, each decoded once.

    Args:
        name: Of the suite.
        network: Trained.
        judge: Of its checkpoint.
        source: The pictures.
        indices: Of those wanted.
        engine: As `features.engine`.
        device: Where to compute.

    Returns:
        As `shift_table`.

    Raises:
        BcdError: An answer is not finite.
    """
    suite = shifts(name)
    blocks = nn.Sequential(*network.prefix.blocks, *network.trunk)
    mean, std = (network.prefix.get_buffer(n).flatten().tolist() for n in ("mean", "std"))
    frozen = FrozenPrefix(blocks, True, mean, std)
    made = with_engine(engine, device, lambda n: make_engine(n, frozen, source.size, device))
    head = network.head.cpu().eval()

    @torch.inference_mode()
    def forward(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, and in the last column how unlike the training pictures each is."""
        features = made.forward(pictures)
        logits = head(torch.from_numpy(features)).numpy()
        apart = judge.unlikeness(features)[:, None]
        return np.concatenate([logits, apart], axis=1, dtype=np.float32)

    shifted = ShiftedViews(source, indices, suite)
    batch = max(made.batch, 8)
    values, labels = run_shifts(shifted, forward, made.threads, batch, "Shifted pictures")
    if not np.isfinite(values).all():
        raise BcdError("answers to shifted pictures are not finite: the weights are of no use")
    probabilities = np.stack([judge.probabilities(v[:, :-1]) for v in values])
    pairs = zip(probabilities, values[:, :, -1], strict=True)
    away = np.stack([referred(judge.reasons(p, apart)) for p, apart in pairs])
    return shift_table(suite, probabilities, labels, _ece, away)


def _ece(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    return reliability(probabilities, labels).ece
