"""Shards: the files of a bank. Each holds some images' features and can check itself."""

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
    """A shard on disk: `<name>.npy` with the features, `<name>.json` with what they are of.

    The json is written last, so a shard that has one was finished.

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
        """Says whether the shard is still what was written."""
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
        """Deletes it; first what makes it count."""
        self.file.with_suffix(".json").unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)


def shard_name(images: Sequence[str], views: Sequence[int]) -> str:
    """A shard's name follows from what is in it, so that building it again gives the same file."""
    text = f"{list(views)} {' '.join(images)}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_shard(
    folder: Path, images: Sequence[str], views: Sequence[int], features: NDArray[Any]
) -> Shard:
    """Writes a shard so that after a kill at any moment it is there whole or not at all.

    Args:
        folder: Of the bank.
        images: sha256 of each image.
        views: Number of each view.
        features: Shape (images, views, ...).

    Raises:
        OSError: The disk is full, or not to be written.
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
    """Lists the finished shards of a bank, by name; a json that cannot be read counts for none."""
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
    """Writes to a stream and a digest at once."""

    def __init__(self, stream: Any, digest: Any) -> None:
        self._stream = stream
        self._digest = digest

    def write(self, data: Any) -> None:
        self._stream.write(data)
        self._digest.update(data)
