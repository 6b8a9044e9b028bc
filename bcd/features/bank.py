"""The feature bank: a folder of shards that holds the features of one cache key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.console import say
from bcd.errors import BcdError
from bcd.features.cache_key import CacheKey
from bcd.features.shards import Shard, read_shards
from bcd.storage import PART, cache_dir, write_text

# Mapped pages count as memory of this process until they are unmapped.
_ROWS_BEFORE_UNMAPPING = 1024


def banks_dir() -> Path:
    """The folder of all banks."""
    return cache_dir() / "features"


@dataclass
class Bank:
    """The features of one cache key.

    Attributes:
        folder: Where its shards are.
        shards: Those that `load` found undamaged.
    """

    folder: Path
    shards: list[Shard] = field(default_factory=list)

    @classmethod
    def of(cls, cache_key: CacheKey) -> Bank:
        """The bank of a cache key; nothing is read yet."""
        return cls(banks_dir() / cache_key.key)

    def load(self) -> list[Shard]:
        """Lists the shards and checks each; returns the damaged ones."""
        found = read_shards(self.folder)
        whole = [shard.is_whole() for shard in found]
        self.shards = [s for s, ok in zip(found, whole, strict=True) if ok]
        return [s for s, ok in zip(found, whole, strict=True) if not ok]

    def missing(
        self, images: Sequence[str], views: Sequence[int]
    ) -> dict[tuple[int, ...], list[str]]:
        """Finds the features of these images and views that are missing.

        Returns:
            The images by the views they lack, each image once, in the order given.
        """
        held: dict[int, set[str]] = {view: set() for view in views}
        for shard in self.shards:
            for view in held.keys() & set(shard.views):
                held[view].update(shard.images)
        wanting: dict[tuple[int, ...], list[str]] = {}
        for image in dict.fromkeys(images):
            lacking = tuple(view for view in views if image not in held[view])
            if lacking:
                wanting.setdefault(lacking, []).append(image)
        return wanting

    @contextlib.contextmanager
    def locked(self, cache_key: CacheKey | None = None) -> Iterator[None]:
        """Locks the bank for writing while the block runs; waits while another process holds it.

        The operating system releases the lock when the process ends, also if it is killed.

        Args:
            cache_key: Written to the folder, for people to read.
        """
        import filelock

        lock = filelock.FileLock(self.folder.with_suffix(".lock"))
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0.2)
            except filelock.Timeout:
                say("feature bank: another process is building it; waiting")
                lock.acquire()
            if cache_key is not None:
                write_text(self.folder / "cache_key.json", cache_key.text())
            for leftover in self.folder.glob(f".*{PART}"):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            lock.release()
            raise BcdError(
                f"feature bank: {self.folder} cannot be written ({error.strerror}): set BCD_CACHE "
                "to another folder, or set features=off"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def size(self) -> int:
        """Bytes on disk."""
        return sum(f.stat().st_size for f in self.folder.iterdir() if f.is_file())


class Rows:
    """Reads rows of a bank.

    Args:
        bank: Loaded, and holding every requested view of every image.
        images: sha256 of the images; rows are requested by position in this list.
        views: Numbers of the views.
    """

    def __init__(self, bank: Bank, images: Sequence[str], views: Sequence[int]) -> None:
        self._shards = bank.shards
        self._column = {view: number for number, view in enumerate(views)}
        # Shard that holds an image's view, and the row in it; small for any number of images.
        self._where = np.full((len(images), len(views), 2), -1, np.int32)
        numbers: dict[str, list[int]] = {}
        for number, image in enumerate(images):
            numbers.setdefault(image, []).append(number)
        for place, shard in enumerate(bank.shards):
            columns = [self._column[view] for view in shard.views if view in self._column]
            for row, image in enumerate(shard.images):
                for number in numbers.get(image, ()):
                    self._where[number, columns] = (place, row)
        self._mapped: dict[int, NDArray[Any]] = {}
        self._handed_out = 0

    def get(self, image: int, view: int) -> NDArray[Any]:
        """The features of a view of the image at that position: a copy, of the stored type."""
        place, row = self._where[image, self._column[view]]
        shard = self._shards[place]
        features = self._mapped.get(place)
        if features is None:
            features = self._mapped[place] = _open(shard)
        self._handed_out += 1
        if self._handed_out % _ROWS_BEFORE_UNMAPPING == 0:
            self._mapped.clear()
        return np.array(features[row, shard.views.index(view)])


def _open(shard: Shard) -> NDArray[Any]:
    try:
        return shard.open()
    except (OSError, ValueError) as error:
        raise BcdError(
            f"feature bank: {shard.file} was removed while it was in use; start the run again"
        ) from error


def all_banks() -> Iterator[Bank]:
    """All banks, by name."""
    folder = banks_dir()
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (place / "cache_key.json").is_file():
            yield Bank(place)
