"""Robustness: metrics of a network under corruptions of its images.

Every training run calls `brief_robustness`; `evaluate_suite` evaluates one of the suites in
`corruption_suites`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bcd.config.schema import FeaturesConfig, ModelConfig
from bcd.console import track
from bcd.data.catalog import Catalog
from bcd.data.input_views import make_views, pack
from bcd.data.loading import make_loader
from bcd.data.views import PLAIN, ImageViews
from bcd.errors import BcdError
from bcd.evaluation.answers import check_finite
from bcd.evaluation.collect import collect_answers
from bcd.evaluation.corruption_suites import (
    Corruption,
    CorruptionAugmenter,
    corruption_suite,
)
from bcd.evaluation.corruptions import Pixels
from bcd.evaluation.decision import DecisionPolicy, referred
from bcd.evaluation.robustness_table import Rows, robustness_table
from bcd.evaluation.unsafe import called_malignant
from bcd.features.cached import Need, cached_source
from bcd.features.describe import describe
from bcd.features.engines import make_engine, with_engine
from bcd.models.frozen_prefix import FrozenPrefix, unpack
from bcd.models.network import SmearNetwork

# Corruptions that every training run evaluates.
_BRIEF = (("grey", 0.0), ("jpeg", 30.0), ("gaussian blur", 1.5))
_BRIEF_IMAGES = 100


def brief_robustness(
    network: SmearNetwork,
    policy: DecisionPolicy,
    catalog: Catalog,
    indices: Sequence[int],
    model: ModelConfig,
    features: FeaturesConfig,
    mask: bool,
    device: torch.device,
    groups: Sequence[str] = (),
) -> Rows:
    """Evaluates three corruptions on a hundred evenly spaced test images.

    Args:
        network: Trained.
        policy: Fitted on val.
        catalog: Holds the images.
        indices: Of the test set.
        model: The `model` group.
        features: The `features` group; a feature bank is used if the network allows it.
        mask: Whether the corner with the scale bar is masked.
        device: Where to compute.
        groups: Group of each image of `indices`; intervals are over groups if there are any.

    Returns:
        As `robustness_table`.

    Raises:
        BcdError: An output is not finite.
    """
    places = np.linspace(0, len(indices) - 1, min(_BRIEF_IMAGES, len(indices))).astype(int)
    some = [indices[i] for i in places]
    augmenter = CorruptionAugmenter(_BRIEF)
    source = ImageViews.of(catalog, model.input_size, augmenter, mask, model.views)
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
    decisions = policy.answer(answers.logits, answers.descriptors)
    probabilities = decisions.probabilities
    shape, labels = (len(versions), len(some)), answers.labels[: len(some)]
    is_referred = referred(decisions.reasons).reshape(shape)
    called = _called(policy, probabilities, catalog.benign, shape)
    return robustness_table(
        augmenter.suite, probabilities.reshape(*shape, -1), labels, is_referred, called,
        catalog.benign, [groups[i] for i in places] if groups else (),
    )  # fmt: skip


def evaluate_suite(
    name: str,
    network: SmearNetwork,
    policy: DecisionPolicy,
    source: ImageViews,
    indices: Sequence[int],
    engine: str,
    device: torch.device,
    benign: int | None = None,
    groups: Sequence[str] = (),
) -> Rows:
    """Evaluates a suite of corruptions on images, each of which is decoded once.

    Args:
        name: Of the suite.
        network: Trained.
        policy: Of its checkpoint.
        source: The images.
        indices: Of the images to evaluate.
        engine: As `features.engine`.
        device: Where to compute.
        benign: Index of the benign class; None if there is none.
        groups: Group of each image of `indices`; intervals are over groups if there are any.

    Returns:
        As `robustness_table`.

    Raises:
        BcdError: An output is not finite.
    """
    suite = corruption_suite(name)
    blocks = nn.Sequential(*network.prefix.blocks, *network.trunk)
    mean, std = (network.prefix.get_buffer(n).flatten().tolist() for n in ("mean", "std"))
    frozen = FrozenPrefix(blocks, True, mean, std)
    sides = [view.side for view in source.inputs]
    engines, describing = with_engine(
        engine, device,
        lambda n: (
            {s: make_engine(n, frozen, s, device) for s in {*sides}},
            make_engine(n, network.descriptor, sides[0], device),
        ),
    )  # fmt: skip
    any_engine = engines[sides[0]]
    head = network.head.cpu().eval()

    @torch.inference_mode()
    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, with the out-of-distribution score in the last column."""
        parts = unpack(images, sides) if len(sides) > 1 else [images]
        made = [engines[n].forward(part) for n, part in zip(sides, parts, strict=True)]
        features = np.concatenate(made, axis=1)
        logits = head(torch.from_numpy(features)).numpy()
        score = policy.ood_score(describing.forward(parts[0]))[:, None]
        return np.concatenate([logits, score], axis=1, dtype=np.float32)

    corrupted = CorruptedViews(source, indices, suite)
    batch = max(any_engine.batch, 8)
    values, labels = run_corruptions(
        corrupted, forward, any_engine.threads, batch, "Corrupted images"
    )
    if not np.isfinite(values).all():
        raise BcdError("outputs for corrupted images are not finite: the weights are unusable")
    probabilities = np.stack([policy.probabilities(v[:, :-1]) for v in values])
    pairs = zip(probabilities, values[:, :, -1], strict=True)
    is_referred = np.stack([referred(policy.reasons(p, score)) for p, score in pairs])
    shape = (len(probabilities), len(labels))
    called = _called(policy, np.concatenate(probabilities), benign, shape)
    return robustness_table(suite, probabilities, labels, is_referred, called, benign, groups)


def _called(
    policy: DecisionPolicy,
    probabilities: NDArray[np.float64],
    benign: int | None,
    shape: tuple[int, int],
) -> NDArray[np.bool_] | None:
    """Which images are called malignant, in the given shape; None without a benign class."""
    return (
        None if benign is None else called_malignant(policy, probabilities, benign).reshape(shape)
    )


class CorruptedViews:
    """Images under all corruptions, each decoded once; version 0 is the uncorrupted image.

    Args:
        views: Decodes the images.
        indices: Of the images, in `views`.
        suite: The corruptions.
    """

    def __init__(
        self, views: ImageViews, indices: Sequence[int], suite: Sequence[Corruption]
    ) -> None:
        self._views = views
        self._indices = list(indices)
        self._suite = tuple(suite)

    @property
    def versions(self) -> int:
        """Number of network inputs per image: one more than there are corruptions."""
        return 1 + len(self._suite)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[Pixels, int]:
        """All versions of an image, uint8 (versions, size, size, 3), and its label.

        With several input views, (versions, bytes of all views). Each size is corrupted before it
        is normalized; lengths are in its own pixels.
        """
        index = self._indices[number]
        image, resized = self._views.images[index], self._views.resized(index)
        made = [make_views(resized, self._views.inputs)]
        for corruption in self._suite:
            change = partial(_corrupted, corruption, image.sha256)
            made.append(make_views(resized, self._views.inputs, change))
        return np.stack([pack(parts) for parts in made]), image.label


def _corrupted(corruption: Corruption, sha256: str, pixels: Pixels) -> Pixels:
    return corruption.apply(pixels, sha256)


def run_corruptions(
    source: CorruptedViews,
    forward: Callable[[Pixels], NDArray[np.float32]],
    threads: int = 1,
    batch: int = 8,
    description: str = "",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Computes the outputs for all versions of all images, several images in parallel.

    Args:
        source: The images and corruptions.
        forward: Maps inputs uint8 of the source to outputs (N, k), such as logits; called from
            `threads` threads in parallel, as an engine allows.
        threads: Number of images in parallel; with several, each call has one thread of torch.
        batch: Largest number of inputs per call.
        description: Text beside the progress bar; no bar if empty.

    Returns:
        Outputs (versions, images, k) and labels (images,).
    """

    def answer(number: int) -> tuple[NDArray[np.float32], int]:
        parts, label = source[number]
        starts = range(0, len(parts), batch)
        return np.concatenate([forward(parts[i : i + batch]) for i in starts]), label

    cv2.setNumThreads(0)  # the images already occupy all cores
    torch_threads = torch.get_num_threads()
    share = (1 if threads > 1 else torch_threads,)
    with ThreadPoolExecutor(threads, "corruptions", torch.set_num_threads, share) as pool:
        try:
            done: Iterable[Any] = pool.map(answer, range(len(source)))
            done = track(done, description, len(source)) if description else done
            logits, labels = zip(*done, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(torch_threads)
    return np.stack(logits, axis=1), np.array(labels, dtype=np.int64)
