"""Loaders: which views are loaded, in which order, in which process."""

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
    """Yields the keys of one epoch.

    Keys rather than indices, so that workers, which do not know the epoch, make the correct view.
    Training uses view `epoch % views` in an order that depends only on (seed, epoch). Of several
    processes each takes every `world`-th key, so that their batches together equal the batch of a
    single process. No image is repeated, except if the last batch has fewer images than there are
    processes: the remaining processes then get its first image, so that all have equally many
    batches. Evaluation repeats no image.

    Args:
        indices: Images of the subset.
        views: Number of different views; 0 for plain images in their order.
        seed: The run's seed.
        rank: Number of this process.
        world: Number of processes.
        labels: Class of each of these images, if training is to draw the classes equally often,
            with repeated images of rare classes; None to draw each image once.
        batch_size: Images in a batch of all processes together; a multiple of `world`.
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
        self._views = views
        self._seed = seed
        self._rank = rank
        self._world = world
        self._shares = None if labels is None else _equal_shares(labels)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; Lightning calls this at the start of every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(range(self._rank, len(self._indices), self._world)) + self._stands_in

    @property
    def _stands_in(self) -> bool:
        """Whether this process has no image of the last training batch."""
        return bool(self._views) and self._rank >= self._last

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys())

    def _keys(self) -> list[Key]:
        if not self._views:
            return [(i, PLAIN) for i in self._indices[self._rank :: self._world]]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        count = len(self._indices)
        if self._shares is None:
            order = torch.randperm(count, generator=generator).tolist()
        else:
            order = torch.multinomial(self._shares, count, True, generator=generator).tolist()
        mine = order[self._rank :: self._world]
        if self._stands_in:
            mine.append(order[-self._last])
        view = self._epoch % self._views
        return [(self._indices[i], view) for i in mine]


def _equal_shares(labels: Sequence[int]) -> Tensor:
    """Weights (n,) with which all classes are drawn equally often."""
    given = torch.tensor(labels)
    return 1 / torch.bincount(given)[given].double()


def make_loader(
    source: Source, sampler: Sampler[Any], batch_size: int, num_workers: int | None
) -> DataLoader[Any]:
    """Makes a loader whose batches are the same for any number of workers.

    Args:
        source: Returns a sample for each key of the sampler.
        sampler: Yields keys.
        batch_size: Samples per batch.
        num_workers: Worker processes; None for one per core, at most eight, none for small sets. A
            source that is fast enough gets none, nor does a process started by joblib, which runs
            beside others. Their number is limited so that all may decode the largest image at the
            same time (`bcd.data.opening.MAX_PIXELS`).

    Returns:
        The loader. It has its own generator and does not use the global random state.
    """
    # joblib's start method for processes does not allow passing the source to workers.
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
