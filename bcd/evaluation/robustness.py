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
from bcd.data.views import PLAIN, ImageViews
from bcd.errors import BcdError
from bcd.evaluation.calibration import reliability
from bcd.evaluation.collect import check_finite, collect_answers
from bcd.evaluation.decision import DecisionPolicy, referred
from bcd.evaluation.robustness_suite import (
    CorruptedViews,
    CorruptionAugmenter,
    corruption_suite,
    robustness_table,
    run_corruptions,
)
from bcd.features.cached import Need, feed
from bcd.features.engines import make_engine, with_engine
from bcd.models.network import FrozenPrefix, SmearNetwork

# What every training run tries on some of its test images, unasked.
_SHORT = (("grey", 0.0), ("jpeg", 30.0), ("gaussian blur", 1.5))
_FEW = 100  # images

Rows = list[dict[str, Any]]


def brief_robustness(
    network: SmearNetwork,
    policy: DecisionPolicy,
    catalog: Catalog,
    indices: Sequence[int],
    model: ModelConfig,
    features: FeaturesConfig,
    mask: bool,
    device: torch.device,
) -> Rows:
    """Tries three corruptions on a hundred evenly spaced test images, through the bank if possible.

    Args:
        network: Trained.
        policy: Decided on val.
        catalog: The images.
        indices: Of the test part.
        model: The `model` group.
        features: The `features` group.
        mask: Whether the corner with the scale bar is covered.
        device: Where to compute.

    Returns:
        As `robustness_table`.

    Raises:
        BcdError: An answer is not finite.
    """
    some = [
        indices[i] for i in np.linspace(0, len(indices) - 1, min(_FEW, len(indices))).astype(int)
    ]
    augmenter = CorruptionAugmenter(_SHORT)
    source = ImageViews(
        catalog.root, catalog.images, model.input_size, augmenter, mask, catalog.kept
    )
    versions = (PLAIN, *range(len(_SHORT)))
    # Activations in front of trained blocks would take more room than time.
    pooled = FeaturesConfig(**{**vars(features), "bank": features.bank and network.prefix.pooled})
    needs = [Need(some, (PLAIN,)), Need(some, versions[1:])]
    with feed(pooled, model, network, source, needs, device) as fed:
        keys: Any = [(index, version) for version in versions for index in some]
        answers = collect_answers(network, make_loader(fed, keys, 16, None), device)
    check_finite(answers)
    decisions = policy.answer(answers.logits, answers.features)
    probabilities = decisions.probabilities
    shape, labels = (len(versions), len(some)), answers.labels[: len(some)]
    away = referred(decisions.reasons).reshape(shape)
    return robustness_table(augmenter.suite, probabilities.reshape(*shape, -1), labels, _ece, away)


def full_robustness(
    name: str,
    network: SmearNetwork,
    policy: DecisionPolicy,
    source: ImageViews,
    indices: Sequence[int],
    engine: str,
    device: torch.device,
) -> Rows:
    """Runs a suite of corruptions on images, each decoded once.

    Args:
        name: Of the suite.
        network: Trained.
        policy: Of its checkpoint.
        source: The images.
        indices: Of those wanted.
        engine: As `features.engine`.
        device: Where to compute.

    Returns:
        As `robustness_table`.

    Raises:
        BcdError: An answer is not finite.
    """
    suite = corruption_suite(name)
    blocks = nn.Sequential(*network.prefix.blocks, *network.trunk)
    mean, std = (network.prefix.get_buffer(n).flatten().tolist() for n in ("mean", "std"))
    frozen = FrozenPrefix(blocks, True, mean, std)
    made = with_engine(engine, device, lambda n: make_engine(n, frozen, source.size, device))
    head = network.head.cpu().eval()

    @torch.inference_mode()
    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, and in the last column how unlike the training images each is."""
        features = made.forward(images)
        logits = head(torch.from_numpy(features)).numpy()
        apart = policy.ood_score(features)[:, None]
        return np.concatenate([logits, apart], axis=1, dtype=np.float32)

    corrupted = CorruptedViews(source, indices, suite)
    batch = max(made.batch, 8)
    values, labels = run_corruptions(corrupted, forward, made.threads, batch, "Corrupted images")
    if not np.isfinite(values).all():
        raise BcdError("answers to corrupted images are not finite: the weights are of no use")
    probabilities = np.stack([policy.probabilities(v[:, :-1]) for v in values])
    pairs = zip(probabilities, values[:, :, -1], strict=True)
    away = np.stack([referred(policy.reasons(p, apart)) for p, apart in pairs])
    return robustness_table(suite, probabilities, labels, _ece, away)


def _ece(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    return reliability(probabilities, labels).ece
