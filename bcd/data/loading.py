"""Loaders: which views, in which order, on which process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from bcd.data.opening import MAX_PIXELS
from bcd.data.views import PLAIN, Key, Source


class ViewSampler(Sampler[Key]):
    """Yields the keys (image, view) of one epoch.

    It yields keys rather than indices because worker processes do not know the epoch. Epoch e
    yields view `e % views` of every image, in an order that depends on (seed, epoch) alone.

    Of several processes each takes every `world`-th key, so that their batches together are the
    batch of a single process. Where the last batch has fewer images than there are processes, the
    processes without one get its first image as a placeholder, so that all make the same number
    of steps. Evaluation has no placeholders.

    Args:
        indices: Images of the subset.
        views: Number of different views; 0 for plain images in their order.
        seed: The run's seed.
        rank: Rank of this process.
        world: Number of processes.
        labels: Class of each of these images, to sample the classes equally often and images of
            rare classes more than once; None to yield each image once.
        batch_size: Images in a batch of all processes together; a multiple of `world`.

    Attributes:
        views: Number of different views.
    """

    def __init__(
        self,
        indices: Sequence[int],
        views: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        labels: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> None:
        self._last = (len(indices) - 1) % batch_size + 1  # images in the last batch
        self._indices = list(indices)
        self.views = views
        self._seed = seed
        self._rank = rank
        self._world = world
        self._shares = None if labels is None else _equal_shares(labels)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; Lightning calls this at the start of each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(range(self._rank, len(self._indices), self._world)) + self._has_placeholder

    @property
    def _has_placeholder(self) -> bool:
        """Whether this process has no image of the last training batch."""
        return bool(self.views) and self._rank >= self._last

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys())

    def _keys(self) -> list[Key]:
        if not self.views:
            return [(i, PLAIN) for i in self._indices[self._rank :: self._world]]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        count = len(self._indices)
        if self._shares is None:
            order = torch.randperm(count, generator=generator).tolist()
        else:
            order = torch.multinomial(self._shares, count, True, generator=generator).tolist()
        mine = order[self._rank :: self._world]
        if self._has_placeholder:
            mine.append(order[-self._last])
        view = self._epoch % self.views
        return [(self._indices[i], view) for i in mine]


def _equal_shares(labels: Sequence[int]) -> Tensor:
    """Sampling weights (n,) of images by which all classes are drawn equally often."""
    given = torch.tensor(labels)
    return 1 / torch.bincount(given)[given].double()


def make_loader(
    source: Source, sampler: Sampler[Any], batch_size: int, num_workers: int | None
) -> DataLoader[Any]:
    """Makes a loader whose batches are the same for any number of workers.

    Args:
        source: Gives a sample for each key of the sampler.
        sampler: Yields keys.
        batch_size: Samples per batch.
        num_workers: Worker processes. None chooses one per core, at most eight, and none for small
            sets. There are none for a source that needs none and in processes of joblib, and
            never more than may decode the largest image at the same time
            (`bcd.data.opening.MAX_PIXELS`).

    Returns:
        The loader. It has its own generator, so it leaves the global random state alone.
    """
    # joblib starts processes in its own way, in which the source cannot be passed to workers.
    of_joblib = multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods()
    if not source.wants_workers or of_joblib:
        num_workers = 0
    elif num_workers is None:
        count = len(sampler)  # type: ignore[arg-type]
        num_workers = min(8, os.cpu_count() or 1) if count > 4 * batch_size else 0
    num_workers = min(num_workers, max(1, MAX_PIXELS // max(1, source.most_pixels)))
    return DataLoader(
        source,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=source.collate,
        generator=torch.Generator(),
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
