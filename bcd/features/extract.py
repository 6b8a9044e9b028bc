"""Extraction: takes each image once, draws its views, runs the prefix and fills the shards."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.console import say, track
from bcd.data.views import Augmenter, ImageViews
from bcd.errors import BcdError
from bcd.features.bank import Bank
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
    """

    bank: Bank
    indices: tuple[int, ...]
    views: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of features."""
        return len(self.indices) * len(self.views)


class Extractor:
    """Computes features, several images at once.

    Args:
        source: Decodes images and draws views.
        engine: Runs the prefix.
        dtype: Of what is stored, float32 or float16.
    """

    def __init__(self, source: ImageViews, engine: Engine, dtype: str) -> None:
        self._source = source
        self._engine = engine
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
        jobs = [job for work in works for job in self._jobs(work, row_bytes)]
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
        probe = next(work for work in works if work.rows)
        self._own.augmenter = copy.copy(self._source.augmenter)
        some = probe.indices[:4]
        self._compute(some, probe.views)
        started = time.perf_counter()
        features = self._compute(some, probe.views)
        seconds = (time.perf_counter() - started) / (len(some) * len(probe.views)) * total
        row_bytes = int(features[0, 0].nbytes)
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

    def _jobs(self, work: Work, row_bytes: int) -> Iterator[_Job]:
        per_image = row_bytes * len(work.views)
        size = max(1, min(_SHARD_IMAGES, _SHARD_BYTES // per_image))
        for start in range(0, len(work.indices), size):
            shard = _Filling(work, work.indices[start : start + size])
            for first in range(0, len(shard.indices), self._engine.batch):
                yield _Job(shard, first, shard.indices[first : first + self._engine.batch])

    def _in_order(
        self, pool: ThreadPoolExecutor, jobs: Sequence[_Job]
    ) -> Iterator[tuple[_Job, NDArray[Any]]]:
        """Runs jobs slightly ahead of their consumer, and yields results in order."""
        ahead: deque[tuple[_Job, Future[NDArray[Any]]]] = deque()
        for job in jobs:
            ahead.append((job, pool.submit(self._compute, job.indices, job.shard.work.views)))
            if len(ahead) > 2 * self._engine.threads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    def _compute(self, indices: Sequence[int], views: Sequence[int]) -> NDArray[Any]:
        """Features of images in views, shape (images, views, ...), in full batches."""
        size, batch = self._source.size, self._engine.batch
        buffer = np.empty((batch, size, size, 3), np.uint8)
        outputs: list[NDArray[np.float32]] = []
        places: list[int] = []  # output of each view
        filled = count = 0
        for index in indices:
            # Equal views, an eighth of them with the paper's transforms, run once.
            drawn: dict[bytes, int] = {}
            for pixels in self._draw(index, views):
                places.append(drawn.setdefault(pixels.tobytes(), count))
                if places[-1] < count:
                    continue
                buffer[filled] = pixels
                filled, count = filled + 1, count + 1
                if filled == batch:
                    outputs.append(self._engine.forward(buffer))
                    filled = 0
        if filled:
            outputs.append(self._engine.forward(buffer[:filled]))
        features = self._stored(np.concatenate(outputs))[places]
        return features.reshape(len(indices), len(views), *features.shape[1:])

    def _draw(self, index: int, views: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        image = self._source.images[index]
        augmenter: Augmenter = self._own.augmenter
        pixels = self._source.pixels(index, verify=True)
        for view in views:
            yield augmenter(pixels, image.sha256, view)

    def _stored(self, features: NDArray[np.float32]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            stored = features.astype(self._dtype)
        if not np.isfinite(stored).all():
            wider = "features.dtype=float32" if np.isfinite(features).all() else "features=off"
            raise BcdError(f"the frozen network gives numbers beyond {self._dtype}: set {wider}")
        return stored

    def _keep(self, job: _Job, features: NDArray[Any]) -> None:
        shard = job.shard
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


@dataclass
class _Filling:
    """A shard while it is being filled."""

    work: Work
    indices: tuple[int, ...]
    features: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Job:
    """A few images of a shard, starting with number `first`."""

    shard: _Filling
    first: int
    indices: tuple[int, ...]

    @property
    def rows(self) -> int:
        return len(self.indices) * len(self.shard.work.views)


def _disk_full(folder: object, reason: str) -> BcdError:
    return BcdError(
        f"feature bank: cannot write to {folder} ({reason}); make room (bcd cache "
        "list) or set BCD_CACHE to another disk, and start again: it continues where it stopped"
    )
