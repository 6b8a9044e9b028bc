"""Extraction: takes each image once, draws its views, runs the prefix and fills the shards."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config.input_views import InputView
from bcd.console import say, track
from bcd.data.input_views import Pixels
from bcd.data.views import Augmenter, ImageViews
from bcd.errors import BcdError
from bcd.features.bank import Bank
from bcd.features.batches import batches_of
from bcd.features.engines import Engine
from bcd.features.shards import write_shard

_SHARD_BYTES = 8 << 20  # at most this is lost if the process is killed, or held in memory
_SHARD_IMAGES = 256


@dataclass(frozen=True)
class Work:
    """Images whose features are missing.

    Attributes:
        bank: Where they are written; locked by this process.
        indices: Of the images, in the catalog.
        views: Of each image.
        input_view: The input view whose features the bank holds.
    """

    bank: Bank
    indices: tuple[int, ...]
    views: tuple[int, ...]
    input_view: InputView

    @property
    def rows(self) -> int:
        """Number of features."""
        return len(self.indices) * len(self.views)


class Extractor:
    """Computes features, several images at once.

    Args:
        source: Decodes images and draws views.
        engines: Run the prefix, by the side of its input; alike but for that.
        dtype: Of what is stored, float32 or float16.
    """

    def __init__(self, source: ImageViews, engines: Mapping[int, Engine], dtype: str) -> None:
        self._source = source
        self._engines = engines
        self._engine = next(iter(engines.values()))
        self._dtype = np.dtype(dtype)
        self._own = threading.local()

    def run(self, works: Sequence[Work]) -> None:
        """Fills the banks, shard by shard in a fixed order, so that it can continue after a kill.

        Raises:
            BcdError: An image has changed or the disk is full; finished shards are kept.
        """
        import cv2

        cv2.setNumThreads(0)
        self._source.augmenter.check()
        total = sum(work.rows for work in works)
        row_bytes = self._announce(works, total)
        jobs = [job for group in _alike(works) for job in self._jobs(group, row_bytes)]
        threads, of_torch = self._engine.threads, torch.get_num_threads()
        with ThreadPoolExecutor(threads, "features", initializer=self._start_thread) as pool:
            try:
                done = self._in_order(pool, jobs)
                for job, features in track(done, "Features", total, lambda d: d[0].rows):
                    self._keep(job, features)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                torch.set_num_threads(of_torch)

    def _start_thread(self) -> None:
        if self._engine.threads > 1:
            torch.set_num_threads(1)  # one image per core already keeps all cores busy
        self._own.augmenter = copy.copy(self._source.augmenter)

    def _announce(self, works: Sequence[Work], total: int) -> int:
        """Reports the amount of data and the expected time; returns the bytes of a feature."""
        probe = next(group for group in _alike(works) if group[0].rows)
        self._own.augmenter = copy.copy(self._source.augmenter)
        some = probe[0].indices[:4]
        self._compute(some, probe)
        started = time.perf_counter()
        features = self._compute(some, probe)
        rows = len(some) * len(probe[0].views) * len(probe)
        seconds = (time.perf_counter() - started) / rows * total
        row_bytes = int(features[0][0, 0].nbytes)
        folder = works[0].bank.folder
        images = len({index for work in works for index in work.indices})
        say(
            f"feature bank: {total} views of {images} images, {total * row_bytes / 1e6:.0f} MB "
            f"in {folder.parent}, about {seconds / self._engine.threads:.0f} s "
            f"({self._engine.name}); one-off, later runs reuse it"
        )
        free = shutil.disk_usage(folder).free
        if free < total * row_bytes:
            raise _disk_full(folder.parent, f"{free / 1e6:.0f} MB free")
        return row_bytes

    def _jobs(self, works: Sequence[Work], row_bytes: int) -> Iterator[_Job]:
        """Jobs for works of the same images: an image is decoded once for all its input views."""
        indices, batch = works[0].indices, self._engine.batch
        size = max(1, min(_SHARD_IMAGES, _SHARD_BYTES // (row_bytes * len(works[0].views))))
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            shards = [_Filling(work, part) for work in works]
            for first in range(0, len(part), batch):
                yield _Job(shards, first, part[first : first + batch])

    def _in_order(
        self, pool: ThreadPoolExecutor, jobs: Sequence[_Job]
    ) -> Iterator[tuple[_Job, list[NDArray[Any]]]]:
        """Runs jobs slightly ahead of their consumer, and yields results in order."""
        ahead: deque[tuple[_Job, Future[list[NDArray[Any]]]]] = deque()
        for job in jobs:
            ahead.append((job, pool.submit(self._compute, job.indices, job.works)))
            if len(ahead) > 2 * self._engine.threads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    def _compute(self, indices: Sequence[int], works: Sequence[Work]) -> list[NDArray[Any]]:
        """Features of images, for each work an array (images, views, ...)."""
        views, inputs = works[0].views, [work.input_view for work in works]
        batches = [batches_of(self._engines[one.side], one) for one in inputs]
        for index in indices:
            # Equal views, an eighth of them with the paper's transforms, run once.
            drawn: list[dict[bytes, int]] = [{} for _ in works]
            resized = self._source.resized(index, verify=True)
            augments = [self._augment(index, view) for view in views]
            for parts in self._source.of_inputs(inputs).make(resized, augments):
                for batch, known, pixels in zip(batches, drawn, parts, strict=True):
                    batch.add(pixels, known)
        found = [self._stored(batch.features()) for batch in batches]
        return [f.reshape(len(indices), len(views), *f.shape[1:]) for f in found]

    def _augment(self, index: int, view: int) -> Callable[[Pixels], Pixels]:
        augmenter: Augmenter = self._own.augmenter
        return partial(augmenter, sha256=self._source.images[index].sha256, view=view)

    def _stored(self, features: NDArray[np.float32]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            stored = features.astype(self._dtype)
        if not np.isfinite(stored).all():
            wider = "features.dtype=float32" if np.isfinite(features).all() else "features=off"
            raise BcdError(f"the frozen network gives numbers beyond {self._dtype}: set {wider}")
        return stored

    def _keep(self, job: _Job, features: Sequence[NDArray[Any]]) -> None:
        for shard, part in zip(job.shards, features, strict=True):
            self._fill(shard, job, part)

    def _fill(self, shard: _Filling, job: _Job, features: NDArray[Any]) -> None:
        if shard.features is None:
            shape = (len(shard.indices), *features.shape[1:])
            shard.features = np.empty(shape, self._dtype)
        shard.features[job.first : job.first + len(job.indices)] = features
        if job.first + len(job.indices) < len(shard.indices):
            return
        names = [self._source.images[i].sha256 for i in shard.indices]
        bank = shard.work.bank
        try:
            bank.shards.append(write_shard(bank.folder, names, shard.work.views, shard.features))
        except OSError as error:
            raise _disk_full(bank.folder.parent, error.strerror or str(error)) from error
        shard.features = None


def _alike(works: Sequence[Work]) -> list[list[Work]]:
    """Works by the images and views that are missing."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Work]] = {}
    for work in works:
        groups.setdefault((work.indices, work.views), []).append(work)
    return list(groups.values())


@dataclass
class _Filling:
    """A shard while it is being filled."""

    work: Work
    indices: tuple[int, ...]
    features: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Job:
    """A few images of shards of several works, starting with number `first`."""

    shards: Sequence[_Filling]
    first: int
    indices: tuple[int, ...]

    @property
    def works(self) -> list[Work]:
        """What is computed of these images."""
        return [shard.work for shard in self.shards]

    @property
    def rows(self) -> int:
        """Number of features."""
        return sum(len(self.indices) * len(work.views) for work in self.works)


def _disk_full(folder: object, reason: str) -> BcdError:
    return BcdError(
        f"feature bank: cannot write to {folder} ({reason}); make room (bcd cache "
        "list) or set BCD_CACHE to another disk, and start again: it continues where it stopped"
    )
