"""Robustness: metrics of a network under one of the suites in `corruption_suites`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bcd.console import track
from bcd.data.input_views import (
    cut_rois,
    make_views,
    pack,
    split_described,
    views_to_read,
)
from bcd.data.views import ImageViews
from bcd.errors import BcdError
from bcd.evaluation.corruption_suites import Corruption, corruption_suite
from bcd.evaluation.corruptions import Pixels
from bcd.evaluation.decision import DecisionPolicy, referred
from bcd.evaluation.robustness_table import Rows, robustness_table
from bcd.evaluation.unsafe import called_malignant
from bcd.features.batches import run_view
from bcd.features.engines import make_engine, with_engine
from bcd.models.frozen_prefix import FrozenPrefix, unpack
from bcd.models.network import SmearNetwork, head_outputs


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
    views = source.inputs
    described = views[0].described.side
    engines, describing = with_engine(
        engine, device,
        lambda n: (
            {s: make_engine(n, frozen, s, device) for s in {view.side for view in views}},
            make_engine(n, network.descriptor, described, device),
        ),
    )  # fmt: skip
    any_engine = engines[views[0].side]
    head = network.head.cpu().eval()

    @torch.inference_mode()
    def forward(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits; out-of-distribution score and disagreement in the last two columns."""
        shown, images = split_described(images, views)
        first = shown if shown.ndim == 4 else unpack(shown, [described])[0]
        logits, differ = answer(images)
        more = np.stack([policy.ood_score(describing.forward(first)), differ], axis=1)
        return np.concatenate([logits, more], axis=1, dtype=np.float32)

    def answer(images: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Logits and disagreement."""
        if network.test_time is not None:  # its views are made in torch
            found = network.outputs(torch.from_numpy(images).permute(0, 3, 1, 2))
            return found[0].numpy(), found[1].numpy()
        parts = unpack(images, [view.side for view in views]) if len(views) > 1 else [images]
        made = [
            run_view(engines[view.side], view, part)
            for view, part in zip(views, parts, strict=True)
        ]
        features = torch.from_numpy(np.concatenate(made, axis=1))
        logits, differ = head_outputs(head, features)
        return network.known(logits, features).numpy(), differ.numpy()

    corrupted = CorruptedViews(source.of_inputs(views_to_read(views)), indices, suite)
    batch = max(any_engine.batch, 8)
    values, labels = run_corruptions(
        corrupted, forward, any_engine.threads, batch, "Corrupted images"
    )
    if not np.isfinite(values).all():
        raise BcdError("outputs for corrupted images are not finite: the weights are unusable")
    probabilities = np.stack([policy.probabilities(v[:, :-2]) for v in values])
    scored = zip(probabilities, values, strict=True)
    is_referred = np.stack([referred(policy.reasons(p, v[:, -2], v[:, -1])) for p, v in scored])
    shape = (len(probabilities), len(labels))
    called = reshape_called(policy, np.concatenate(probabilities), benign, shape)
    return robustness_table(suite, probabilities, labels, is_referred, called, benign, groups)


def reshape_called(
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

        With several input views or cells, (versions, bytes of all views). Each size is corrupted
        before its cells are found and before it is normalized; lengths are in its own pixels.
        """
        index = self._indices[number]
        image, resized = self._views.images[index], self._views.resized(index)
        made = []
        for corruption in (None, *self._suite):
            changed = resized
            if corruption is not None:
                changed = {n: corruption.apply(p, image.sha256) for n, p in resized.items()}
            made.append(make_views(cut_rois(changed, self._views.inputs), self._views.inputs))
        return np.stack([pack(parts) for parts in made]), image.label


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
