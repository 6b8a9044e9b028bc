"""Reads every file once (hash, size, does it decode?) and caches what it found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bcd.data.files import SUFFIXES, ImageError, UnreadableError, read_bytes, room_for
from bcd.data.reading import check_image
from bcd.storage import cache_dir, digest, write_text

_VERSION = 2

# Bytes in all up to which every file is hashed in every run: a second or two.
ALWAYS_HASHED = 500_000_000

# Times of change are only so fine: a file that changed just before the look may change once more
# without another time, so that what was seen is kept, but not believed unread. In nanoseconds.
_SETTLED = 2_000_000_000


@dataclass(frozen=True)
class FileFacts:
    """What one look at a file told: sha256 of its bytes, size in pixels, or why it is unusable.

    What is `passing` may be otherwise at the next look though the file has not changed. Where the
    reason lies in the file's name or length, its bytes are not read and the sha256 is empty.
    """

    sha256: str = ""
    width: int = 0
    height: int = 0
    error: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Scan:
    """What is known of files, in their order, and how it is known that they are unchanged."""

    facts: list[FileFacts]
    how: str


def scan_files(paths: Sequence[Path], root: Path, min_size: int) -> Scan:
    """Reads what is known of each file; files unchanged since the last scan come from the cache.

    Whether a file is unchanged is told by the sha256 of its bytes. Only where the files have more
    than `ALWAYS_HASHED` bytes in all, its size, times of modification and change, inode and device
    must do. The time of change cannot be set back by what copies or unpacks files. A file system
    without lasting inodes makes files look changed, and they are read again.

    Args:
        paths: The files.
        root: The data root, under whose name the memory is kept.
        min_size: Smallest accepted side in pixels.
    """
    memory_file = _memory_file(root, min_size)
    memory = _load(memory_file)
    now = time.time_ns()
    stamps = [_stamp(path) for path in paths]
    facts, believed = _unchanged(paths, stamps, memory)
    todo = [i for i, fact in enumerate(facts) if fact is None]
    if todo:
        for i, fact in zip(todo, _look_at([paths[i] for i in todo], min_size), strict=True):
            facts[i] = fact
    done = [fact for fact in facts if fact is not None]
    _remember(memory_file, memory, paths, [_settled(s, now) for s in stamps], done)
    return Scan(done, _how(sum(bool(fact.sha256) for fact in done), believed))


def _unchanged(
    paths: Sequence[Path], stamps: Sequence[list[int]], memory: dict[str, Any]
) -> tuple[list[FileFacts | None], int]:
    """What is remembered of unchanged files, None for others; and how many of them were unread."""
    known = [_known(memory.get(str(p)), s) for p, s in zip(paths, stamps, strict=True)]
    sizes = [s[0] for p, s in zip(paths, stamps, strict=True) if s and _is_image(p)]
    hash_all = sum(sizes) <= ALWAYS_HASHED
    doubtful: dict[int, str] = {}
    for i, (path, fact) in enumerate(zip(paths, known, strict=True)):
        if fact is None or not fact.sha256:
            continue
        if hash_all or memory[str(path)]["stamp"] != stamps[i]:
            doubtful[i] = fact.sha256
    for i, sha256 in zip(doubtful, _hashes([paths[i] for i in doubtful]), strict=True):
        if sha256 != doubtful[i]:
            known[i] = None
    believed = sum(bool(fact and fact.sha256) for fact in known)
    return known, believed - sum(known[i] is not None for i in doubtful)


def _how(count: int, believed: int) -> str:
    if not believed:
        return f"content of all {count} files hashed in this run"
    return (
        f"{believed} of {count} files taken from memory by size, inode and times (all files are "
        f"more than {ALWAYS_HASHED / 1e6:.0f} MB), content of the other {count - believed} hashed "
        "in this run"
    )


def _remember(
    file: Path,
    before: dict[str, Any],
    paths: Sequence[Path],
    stamps: Sequence[list[int]],
    facts: Sequence[FileFacts],
) -> None:
    table = {
        str(path): {"stamp": stamp, "facts": asdict(fact)}
        for path, stamp, fact in zip(paths, stamps, facts, strict=True)
        if not fact.passing
    }
    if table != before:
        with contextlib.suppress(OSError):  # without a memory the next look takes longer, no more
            write_text(file, json.dumps(table))


def _known(entry: Any, stamp: list[int]) -> FileFacts | None:
    """What is remembered of a file, unless its length alone shows that it has changed."""
    try:
        fact = FileFacts(**entry["facts"])
        return fact if stamp and entry["stamp"][0] == stamp[0] else None
    except (TypeError, LookupError):  # not there, or not as this version writes it
        return None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _hashes(paths: Sequence[Path]) -> list[str]:
    """sha256 of each file's bytes; empty where they cannot be had."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(_hash, paths))


def _hash(path: Path) -> str:
    try:
        with room_for(path):
            return hashlib.sha256(read_bytes(path)).hexdigest()
    except ImageError:
        return ""


def _look_at(paths: Sequence[Path], min_size: int) -> list[FileFacts]:
    from bcd.console import track

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked = pool.map(lambda path: _facts(path, min_size), paths)
        return list(track(looked, "Looking at the images", len(paths)))


def _facts(path: Path, min_size: int) -> FileFacts:
    sha256 = ""
    try:
        with room_for(path):
            data = read_bytes(path)
            sha256 = hashlib.sha256(data).hexdigest()
            width, height = check_image(data, min_size)
    except ImageError as error:
        return FileFacts(sha256, error=str(error), passing=isinstance(error, UnreadableError))
    return FileFacts(sha256, width, height)


def _stamp(path: Path) -> list[int]:
    """Size, times, inode and device; empty where they cannot be had."""
    try:
        facts = path.stat()
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]


def _settled(stamp: list[int], now: int) -> list[int]:
    """A stamp as it is kept: the size alone, which is never believed, where it may deceive."""
    if not stamp:
        return []
    # Windows has the time of creation where others have that of change; some have no inodes.
    lasting = os.name == "posix" and stamp[3] != 0
    return stamp if lasting and stamp[2] < now - _SETTLED else stamp[:1]


def _memory_file(root: Path, min_size: int) -> Path:
    return cache_dir() / "catalogs" / f"{digest(f'{_VERSION} {min_size} {root}')[:16]}.json"


def _load(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
