"""Looks at every file once (hash, size, does it decode) and remembers what it saw."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bcd.data.files import PictureError, UnreadableError, read_bytes, room_for
from bcd.data.reading import check_picture
from bcd.storage import cache_dir, write_text

_VERSION = 1


@dataclass(frozen=True)
class FileFacts:
    """What one look at a file told: sha256 of its bytes, size in pixels, or why it is unusable.

    What is `passing` may be otherwise at the next look though the file has not changed.
    """

    sha256: str = ""
    width: int = 0
    height: int = 0
    error: str = ""
    passing: bool = False


def scan_files(paths: Sequence[Path], root: Path, min_size: int) -> list[FileFacts]:
    """Looks at each file, taking from memory those unchanged since the last look.

    A file counts as unchanged when its size and its time of modification are.

    Args:
        paths: The files.
        root: The data root, under whose name the memory is kept.
        min_size: Smallest accepted side in pixels.

    Returns:
        The facts, in the order of `paths`.
    """
    memory_file = _memory_file(root, min_size)
    memory = _load(memory_file)
    stamps = [_stamp(path) for path in paths]
    facts = [_recall(memory.get(str(p)), s) for p, s in zip(paths, stamps, strict=True)]
    todo = [i for i, fact in enumerate(facts) if fact is None]
    if todo:
        for i, fact in zip(todo, _look_at([paths[i] for i in todo], min_size), strict=True):
            facts[i] = fact
    done = [fact for fact in facts if fact is not None]
    table = {
        str(path): {"stamp": stamp, "facts": asdict(fact)}
        for path, stamp, fact in zip(paths, stamps, done, strict=True)
        if not fact.passing
    }
    if table != memory:
        with contextlib.suppress(OSError):  # without a memory the next look takes longer, no more
            write_text(memory_file, json.dumps(table))
    return done


def _recall(entry: Any, stamp: list[int]) -> FileFacts | None:
    try:
        return FileFacts(**entry["facts"]) if entry["stamp"] == stamp else None
    except (TypeError, LookupError):  # not there, or not as this version writes it
        return None


def _look_at(paths: Sequence[Path], min_size: int) -> list[FileFacts]:
    from bcd.console import track

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked = pool.map(lambda path: _facts(path, min_size), paths)
        return list(track(looked, "Looking at the pictures", len(paths)))


def _facts(path: Path, min_size: int) -> FileFacts:
    try:
        with room_for(path):
            data = read_bytes(path)
            width, height = check_picture(data, min_size)
            return FileFacts(hashlib.sha256(data).hexdigest(), width, height)
    except PictureError as error:
        return FileFacts(error=str(error), passing=isinstance(error, UnreadableError))


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _memory_file(root: Path, min_size: int) -> Path:
    name = hashlib.sha256(f"{_VERSION} {min_size} {root}".encode()).hexdigest()[:16]
    return cache_dir() / "catalogs" / f"{name}.json"


def _load(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
