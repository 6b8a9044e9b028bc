"""A brief test of robustness, which is part of every training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.schema import FeaturesConfig, ModelConfig
from bcd.data.catalog import Catalog
from bcd.data.loading import make_loader
from bcd.data.views import PLAIN, ImageViews
from bcd.evaluation.answers import check_finite
from bcd.evaluation.collect import collect_answers
from bcd.evaluation.corruption_suites import CorruptionAugmenter
from bcd.evaluation.decision import DecisionPolicy, referred
from bcd.evaluation.robustness import reshape_called
from bcd.evaluation.robustness_table import Rows, robustness_table
from bcd.features.cached import Need, cached_source
from bcd.features.describe import describe
from bcd.models.network import SmearNetwork

_BRIEF = (("grey", 0.0), ("jpeg", 30.0), ("gaussian blur", 1.5))
BRIEF_IMAGES = 100


@dataclass(frozen=True)
class Corrupted:
    """Decisions about n images under each of v - 1 corruptions; the first version has none.

    Attributes:
        indices: Of the images, in the catalog, (n,).
        probabilities: (v, n, classes).
        labels: (n,).
        referred: (v, n).
        called: Whether each is called malignant, (v, n); None without a benign class.
    """

    indices: list[int]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    referred: NDArray[np.bool_]
    called: NDArray[np.bool_] | None


def brief_table(parts: Sequence[Corrupted], benign: int | None, groups: Mapping[int, str]) -> Rows:
    """Metrics under the brief corruptions.

    Args:
        parts: From `brief_robustness`, of different images.
        benign: Index of the benign class; None if there is none.
        groups: Group of each image by index; intervals are over groups if there are any.

    Returns:
        As `robustness_table`.
    """
    called = [part.called for part in parts if part.called is not None]
    return robustness_table(
        CorruptionAugmenter(_BRIEF).suite,
        np.concatenate([part.probabilities for part in parts], axis=1),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.referred for part in parts], axis=1),
        np.concatenate(called, axis=1) if called else None,
        benign,
        [groups[i] for part in parts for i in part.indices] if groups else (),
    )


def brief_robustness(
    network: SmearNetwork,
    policy: DecisionPolicy,
    catalog: Catalog,
    indices: Sequence[int],
    model: ModelConfig,
    features: FeaturesConfig,
    mask: bool,
    device: torch.device,
    count: int = BRIEF_IMAGES,
) -> Corrupted:
    """Evaluates three corruptions on evenly spaced images.

    Args:
        network: Trained.
        policy: Fitted on val.
        catalog: Holds the images.
        indices: Of the images to choose from.
        model: The `model` group.
        features: The `features` group; a feature bank is used if the network allows it.
        mask: Whether the corner with the scale bar is masked.
        device: Where to compute.
        count: Number of images, at most.

    Raises:
        BcdError: An output is not finite.
    """
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    some = [indices[i] for i in places]
    augmenter = CorruptionAugmenter(_BRIEF)
    source = ImageViews.of(catalog, model.input_size, augmenter, mask, model.views, roi=model.roi)
    versions = (PLAIN, *range(len(_BRIEF)))
    # Caching activations in front of trained blocks would cost more storage than it saves time.
    pooled = replace(features, bank=features.bank and network.prefix.pooled)
    needs = [Need(some, (PLAIN,)), Need(some, versions[1:])]
    keys: Any = [(index, version) for version in versions for index in some]
    described = describe(features, model, network, source, keys, device)
    with cached_source(pooled, model, network, source, needs, device) as cached:
        loader = make_loader(cached, keys, 16, None)
        answers = collect_answers(network, loader, device, described)
    check_finite(answers)
    decisions = policy.answer(answers.logits, answers.descriptors, answers.disagreement)
    probabilities, shape = decisions.probabilities, (len(versions), len(some))
    return Corrupted(
        some,
        probabilities.reshape(*shape, -1),
        answers.labels[: len(some)],
        referred(decisions.reasons).reshape(shape),
        reshape_called(policy, probabilities, catalog.benign, shape),
    )
