"""Reads and decodes every file once, and caches what it found.

In the same pass each new file is hashed, checked, measured (`bcd.data.quality.image_statistics`),
searched for keypoints, and resized; a `Workspace` keeps what later steps of the run need.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bcd.data.files import (
    Encoded,
    ImageError,
    UnreadableError,
    has_image_suffix,
    read_bytes,
    room_for,
)
from bcd.data.frames import has_no_suffix, picture_sha256, split_frame
from bcd.data.opening import PIXELS
from bcd.data.parallel import LargeImageError, SmallOnly, read_each, uses_processes
from bcd.data.quality import image_statistics, keypoints
from bcd.data.reading import Decoded, decode, fit, stored_length
from bcd.data.workspace import Slots, Stamp, Workspace, file_stamp, pixels_part
from bcd.storage import JsonCache

CACHE = JsonCache("catalogs")

_VERSION = 3

# Total size in bytes up to which every file is hashed in every run: a second or two.
ALWAYS_HASHED = 500_000_000

# File systems record times coarsely: a file that changed just before it was read may change again
# and keep its time. What was found is cached, but the file is read again next time. In nanoseconds.
_SETTLED = 2_000_000_000

# Size in bytes up to which a file may be read in a process of its own: an uncompressed image of
# 1024 x 1024 pixels is smaller.
_SMALL_FILE = 4 << 20

# Pictures of a file that one process or thread reads; for each batch the whole file is read again.
_TOGETHER = 32

_Numbered = tuple[int, Path]


@dataclass(frozen=True)
class FileFacts:
    """What is known of an image: its sha256, size in pixels, or why it is unusable.

    A result that is `passing` may differ next time although the file has not changed. If the file
    is rejected because of its name or length, its bytes are not read and the sha256 is empty.
    """

    sha256: str = ""
    width: int = 0
    height: int = 0
    error: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Scan:
    """What is known of files, in order.

    Attributes:
        facts: One for each file.
        how: How it is known that the files are unchanged.
        kept: What was computed of the files that were read; None if nothing was kept.
    """

    facts: list[FileFacts]
    how: str
    kept: Workspace | None = None


def scan_files(paths: Sequence[Path], root: Path, min_size: int, keep: Sequence[int] = ()) -> Scan:
    """Reads each file that is new or has changed; what is known of the others is cached.

    A file is unchanged if its bytes have the same sha256. Only if all files together have more than
    `ALWAYS_HASHED` bytes, its size, times of modification and change, inode and device are compared
    instead. Programs that copy or unpack files cannot set the time of change back. On a file system
    without persistent inodes all files look changed, and they are read again.

    Args:
        paths: The files, and `<file>#<number>` for each picture of a DICOM file of several.
        root: The data root, which is part of the cache key.
        min_size: Smallest accepted side in pixels.
        keep: Sides in pixels, ascending, of the resized images that are kept for later steps,
            together with image statistics and keypoints; without any nothing is kept.
    """
    key = f"{_VERSION} {min_size} {root}"
    before = CACHE.load(key)
    cached = before if isinstance(before, dict) else {}
    now = time.time_ns()
    stamps = [file_stamp(path) for path in paths]
    facts, trusted = _unchanged(paths, stamps, cached)
    todo = [i for i, fact in enumerate(facts) if fact is None]
    kept = None
    if todo:
        new = [(number, paths[i]) for number, i in enumerate(todo)]
        sizes = {paths[i]: stamps[i][0] if stamps[i] else 0 for i in todo}
        kept = Workspace.create(len(todo), _parts(keep)) if keep else None
        for i, fact in zip(todo, _read_all(new, sizes, min_size, kept), strict=True):
            facts[i] = fact
            if kept is not None:
                kept.stamp(paths[i], stamps[i])
    done = [fact for fact in facts if fact is not None]
    table = {
        str(path): {"stamp": _settled(stamp, now), "facts": asdict(fact)}
        for path, stamp, fact in zip(paths, stamps, done, strict=True)
        if not fact.passing
    }
    if table != before:
        CACHE.save(key, str(root), table)
    return Scan(done, _how(sum(bool(fact.sha256) for fact in done), trusted), kept)


def _unchanged(
    paths: Sequence[Path], stamps: Sequence[Stamp], cached: dict[str, Any]
) -> tuple[list[FileFacts | None], int]:
    """Facts of unchanged files, None for others; and how many of them were not read."""
    known = [_known(cached.get(str(p)), s) for p, s in zip(paths, stamps, strict=True)]
    sizes = {split_frame(p)[0]: s[0] for p, s in zip(paths, stamps, strict=True) if s}
    hash_all = sum(size for p, size in sizes.items() if _is_image(p)) <= ALWAYS_HASHED
    doubtful: dict[int, str] = {}
    for i, (path, fact) in enumerate(zip(paths, known, strict=True)):
        if fact is None or not fact.sha256:
            continue
        if hash_all or cached[str(path)]["stamp"] != list(stamps[i]):
            doubtful[i] = fact.sha256
    for i, sha256 in zip(doubtful, _hashes([paths[i] for i in doubtful]), strict=True):
        if sha256 != doubtful[i]:
            known[i] = None
    trusted = sum(bool(fact and fact.sha256) for fact in known)
    return known, trusted - sum(known[i] is not None for i in doubtful)


def _how(count: int, trusted: int) -> str:
    if not trusted:
        return f"content of all {count} images hashed in this run"
    return (
        f"{trusted} of {count} images recognized by size, inode and times (all files together have "
        f"more than {ALWAYS_HASHED / 1e6:.0f} MB), content of the other {count - trusted} hashed "
        "in this run"
    )


def _known(entry: Any, stamp: Stamp) -> FileFacts | None:
    """The cached facts of a file, unless its length alone shows that it has changed."""
    try:
        fact = FileFacts(**entry["facts"])
        return fact if stamp and entry["stamp"][0] == stamp[0] else None
    except (TypeError, LookupError):  # missing, or written by another version
        return None


def _is_image(path: Path) -> bool:
    return has_image_suffix(path.name) or has_no_suffix(path.name)


def _hashes(paths: Sequence[Path]) -> list[str]:
    """sha256 of each image; empty if it cannot be read."""
    parts = [split_frame(path) for path in paths]
    files = list(dict.fromkeys(file for file, _ in parts))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = dict(zip(files, pool.map(_hash, files), strict=True))
    return [picture_sha256(found[file], frame) for file, frame in parts]


def _hash(path: Path) -> str:
    try:
        with room_for(path):
            return hashlib.sha256(read_bytes(path)).hexdigest()
    except ImageError:
        return ""


def _parts(sides: Sequence[int]) -> dict[str, np.dtype[Any]]:
    """What is kept of each image; the pixels come last, as not all of them may fit."""
    parts = {image_statistics.PART: image_statistics.ROW, keypoints.PART: keypoints.ROW}
    return parts | {pixels_part(n): np.dtype((np.uint8, (n, n, 3))) for n in sides}


def _read_all(
    files: Sequence[_Numbered], sizes: Mapping[Path, int], min_size: int, kept: Workspace | None
) -> list[FileFacts]:
    """Facts of each numbered image; what else is computed goes to the workspace.

    Large images are read in threads, which share one bound on the memory in use.
    """
    found: dict[int, FileFacts] = {}
    slots = None if kept is None else kept.slots

    def read(chosen: Sequence[_Numbered], small: bool) -> None:
        each = partial(_read, min_size=min_size, slots=slots, only_small=small)
        for results in read_each(each, _batches(chosen), small, "Reading the images"):
            for number, fact, written in results:
                found[number] = fact
                if kept is not None:
                    kept.add(number, fact.sha256, written)

    small = [file for file in files if sizes[file[1]] <= _SMALL_FILE]
    if uses_processes(len(small)):
        read(small, True)
    read([file for file in files if file[0] not in found], False)
    return [found[number] for number, _ in files]


def _batches(files: Sequence[_Numbered]) -> list[list[_Numbered]]:
    """Images that are read together: some pictures of one file, or a single one."""
    batches: list[list[_Numbered]] = []
    last: Path | None = None
    for number, path in files:
        file, frame = split_frame(path)
        if frame is None or file != last or len(batches[-1]) >= _TOGETHER:
            batches.append([])
        batches[-1].append((number, path))
        last = None if frame is None else file
    return batches


def _read(
    files: Sequence[_Numbered], min_size: int, slots: Slots | None, only_small: bool
) -> list[tuple[int, FileFacts, list[str]]]:
    """Number, facts and written parts of images of one file; without large images, if unwanted."""
    file = split_frame(files[0][1])[0]
    with room_for(file):
        try:
            data = read_bytes(file)
        except ImageError as error:
            passing = isinstance(error, UnreadableError)
            return [(number, FileFacts("", 0, 0, str(error), passing), []) for number, _ in files]
        sha256 = hashlib.sha256(data).hexdigest()
        made: list[tuple[int, FileFacts, list[str]]] = []
        for number, path in files:
            encoded = Encoded(data, split_frame(path)[1])
            own = picture_sha256(sha256, encoded.frame)
            try:
                gate = SmallOnly() if only_small else PIXELS
                image = decode(data, min_size, gate, encoded.frame)
            except LargeImageError:
                continue
            except ImageError as error:
                passing = isinstance(error, UnreadableError)
                made.append((number, FileFacts(own, error=str(error), passing=passing), []))
                continue
            written = [] if slots is None else _keep(image, stored_length(encoded), number, slots)
            made.append((number, FileFacts(own, *image.size), written))
        return made


def _keep(image: Decoded, length: int, number: int, slots: Slots) -> list[str]:
    """Computes and writes the parts of an image; returns the names of those that were written."""
    sides = [dtype.shape[0] for dtype in slots.parts.values() if dtype.subdtype is not None]
    fitted = {side: fit(image.pixels, side) for side in {*sides, image_statistics.SIDE}}
    made = {
        image_statistics.PART: image_statistics.measure(
            image, length, fitted[image_statistics.SIDE]
        ),
        keypoints.PART: keypoints.keypoint_row(image.pixels),
        **{pixels_part(side): fitted[side] for side in sides},
    }
    return [part for part, value in made.items() if slots.write(number, part, value)]


def _settled(stamp: Stamp, now: int) -> list[int]:
    """A stamp as it is cached: the size alone, which is never trusted, if it is not reliable."""
    if not stamp:
        return []
    # Windows gives the time of creation instead of change; some file systems have no inodes.
    lasting = os.name == "posix" and stamp[3] != 0
    return list(stamp if lasting and stamp[2] < now - _SETTLED else stamp[:1])
