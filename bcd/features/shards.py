"""Shards: the files of a bank. Each holds the features of some images and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.storage import replacing


@dataclass(frozen=True)
class Shard:
    """A shard on disk: `<name>.npy` with the features, `<name>.json` with their images and views.

    The JSON file is written last, so a shard that has one is complete.

    Attributes:
        file: The features, shape (images, views, ...).
        images: sha256 of each image.
        views: Number of each view.
        checksum: sha256 of the file.
    """

    file: Path
    images: tuple[str, ...]
    views: tuple[int, ...]
    checksum: str

    def is_whole(self) -> bool:
        """Whether the shard is still what was written."""
        if self.file.stem != shard_name(self.images, self.views):
            return False
        digest = hashlib.sha256()
        try:
            with self.file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError:
            return False
        return digest.hexdigest() == self.checksum

    def open(self) -> NDArray[Any]:
        """Maps the features into memory, read-only."""
        mapped = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return np.asarray(mapped)

    def remove(self) -> None:
        """Deletes the shard, starting with the file that marks it as complete."""
        self.file.with_suffix(".json").unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)


def shard_name(images: Sequence[str], views: Sequence[int]) -> str:
    """A shard's name follows from its content, so that building it again gives the same file."""
    text = f"{list(views)} {' '.join(images)}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_shard(
    folder: Path, images: Sequence[str], views: Sequence[int], features: NDArray[Any]
) -> Shard:
    """Writes a shard so that it is complete or absent, even if the process is killed.

    Args:
        folder: Of the bank.
        images: sha256 of each image.
        views: Number of each view.
        features: Shape (images, views, ...).

    Raises:
        OSError: The disk is full or cannot be written.
    """
    file = folder / f"{shard_name(images, views)}.npy"
    digest = hashlib.sha256()
    header = np.lib.format.header_data_from_array_1_0(features)
    with replacing(file, durable=True) as stream:
        np.lib.format.write_array_header_1_0(_Tee(stream, digest), header)
        _Tee(stream, digest).write(np.ascontiguousarray(features).data.cast("B"))
    facts = {"images": list(images), "views": list(views), "sha256": digest.hexdigest()}
    with replacing(file.with_suffix(".json"), durable=True) as stream:
        stream.write(json.dumps(facts).encode())
    return Shard(file, tuple(images), tuple(views), digest.hexdigest())


def read_shards(folder: Path) -> list[Shard]:
    """Lists the complete shards of a bank, by name; those with an unreadable JSON are left out."""
    shards = []
    for file in sorted(folder.glob("*.json")):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            images, views = tuple(facts["images"]), tuple(facts["views"])
            shards.append(Shard(file.with_suffix(".npy"), images, views, facts["sha256"]))
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return shards


class _Tee:
    """Writes to a stream and a digest at the same time."""

    def __init__(self, stream: Any, digest: Any) -> None:
        self._stream = stream
        self._digest = digest

    def write(self, data: Any) -> None:
        self._stream.write(data)
        self._digest.update(data)
