"""Lists, verifies and removes what the program cached.

bcd cache list [key ...]
bcd cache verify [key ...]
bcd cache remove key ... | --all

A key is the name of an entry, its first characters, or a kind such as `features`. Everything in the
cache can be computed again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.cli.app import quick_imports
from bcd.console import say, show_table
from bcd.errors import BcdError, ConfigError
from bcd.storage import JsonCache, cache_dir

if TYPE_CHECKING:
    from bcd.features.bank import Bank


_FEATURES = "features"  # kind of the feature banks
_OTHER = "other"  # kind of what bcd cannot read


@dataclass(frozen=True)
class Entry:
    """One cached result.

    Attributes:
        kind: Such as `features`; the folder below `cache_dir()`.
        path: A file, or a folder of files.
        describe: What it holds, in a few words.
        damage: What is damaged, one line each; empty if nothing is.
        remove: Deletes it.
    """

    kind: str
    path: Path
    describe: Callable[[], str]
    damage: Callable[[], list[str]]
    remove: Callable[[], None]

    @property
    def key(self) -> str:
        """Its name, without the suffix of a file."""
        return self.path.name.removesuffix(self.path.suffix)

    @property
    def label(self) -> str:
        """The first characters of a hash, or the whole name of what has no hash."""
        return self.key if self.kind == _OTHER else self.key[:8]

    def size(self) -> int:
        """Bytes on disk; those of a link itself, not of what it points to."""
        if self.path.is_symlink():
            return self.path.lstat().st_size
        files = [self.path, *self.path.rglob("*")]
        return sum(file.stat().st_size for file in files if file.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 1 if an entry is damaged."""
    parser = argparse.ArgumentParser(
        prog="bcd cache", description="Lists, verifies and removes what the program cached."
    )
    parser.add_argument("command", choices=("list", "verify", "remove"))
    parser.add_argument("keys", nargs="*", help="names of entries, their beginnings, or kinds")
    parser.add_argument("--all", action="store_true", help="with remove: every entry")
    asked = parser.parse_intermixed_args(arguments)
    if asked.command == "remove" and bool(asked.keys) == asked.all:
        raise ConfigError("remove needs keys (see bcd cache list) or --all")
    if asked.all and asked.command != "remove":
        raise ConfigError(f"--all is for remove; {asked.command} without keys is about all entries")
    entries = _choose(asked.keys)
    return {"list": _list, "verify": _verify, "remove": _remove}[asked.command](entries)


def all_entries() -> list[Entry]:
    """Every entry of the cache, by kind and name."""
    with quick_imports():  # not before, as help needs none of it
        from bcd.audit.probes import CACHE as PROBES
        from bcd.data.quality.appearance import CACHE as APPEARANCES
        from bcd.data.quality.image_statistics import FOLDER
        from bcd.data.quality.overlaps import CACHE as OVERLAPS
        from bcd.data.scan import CACHE as CATALOGS
        from bcd.features.bank import all_banks

    tables = (CATALOGS, OVERLAPS, PROBES, APPEARANCES)
    entries = [*map(_bank, all_banks()), *_statistics()]
    for cache in tables:
        entries += _json(cache)
    known = {entry.path for entry in entries}
    kinds = (_FEATURES, FOLDER, *(cache.name for cache in tables))
    folder = cache_dir()
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        if place.name in kinds and place.is_dir():
            others = [p for p in place.iterdir() if p not in known and p.suffix != ".lock"]
        else:
            others = [place]
        entries += map(_other, others)
    return sorted(entries, key=lambda entry: (entry.kind, entry.key))


def _choose(keys: Sequence[str]) -> list[Entry]:
    entries = all_entries()
    for key in keys:
        if not any(_named(entry, key) for entry in entries):
            raise BcdError(f"{key}: not in the cache {cache_dir()}")
    return [entry for entry in entries if not keys or any(_named(entry, key) for key in keys)]


def _named(entry: Entry, key: str) -> bool:
    return entry.kind == key or entry.key.startswith(key)


def _list(entries: Sequence[Entry]) -> int:
    rows, total = [], 0
    for entry in entries:
        size = entry.size()
        total += size
        written = f"{datetime.fromtimestamp(entry.path.lstat().st_mtime):%Y-%m-%d}"
        rows.append([entry.kind, entry.label, entry.describe(), _megabytes(size), written])
    show_table(str(cache_dir()), ["kind", "key", "content", "size", "written"], rows)
    count = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    say(f"{count}, {_megabytes(total)}; bcd cache remove --all deletes them")
    return 0


def _verify(entries: Sequence[Entry]) -> int:
    status = 0
    for entry in entries:
        if entry.kind == _OTHER:  # bcd does not know what it should hold
            say(f"{entry.kind} {entry.label}: not checked")
            continue
        damage = entry.damage()
        for line in damage:
            say(f"damaged: {line} (it is computed again when it is needed)")
            status = 1
        say(f"{entry.kind} {entry.label}: {'damaged' if damage else 'ok'}")
    return status


def _remove(entries: Sequence[Entry]) -> int:
    for entry in entries:
        size = entry.size()
        try:
            entry.remove()
        except OSError as error:
            raise BcdError(f"{entry.path} cannot be removed ({error.strerror})") from error
        say(f"removed {entry.kind} {entry.label} ({_megabytes(size)})")
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _bank(bank: Bank) -> Entry:
    def describe() -> str:
        damaged = len(damage())
        images = {name for shard in bank.shards for name in shard.images}
        views = sum(len(shard.images) * len(shard.views) for shard in bank.shards)
        try:
            facts: dict[str, Any] = json.loads((bank.folder / "cache_key.json").read_text("utf-8"))
            drawn = f"seed {facts['augment']['seed']}" if "augment" in facts else "plain"
            size = f"{facts['input_size']} pixels"
            if "input_view" in facts:
                size = f"{facts['input_view']['normalization']}, {size}"
            network = f"{facts['backbone']}[:{facts['blocks']}], {size}, {drawn}"
        except (OSError, ValueError, LookupError, TypeError):
            network = "unreadable cache_key.json"
        note = f", damaged files: {damaged}" if damaged else ""
        return f"{network}: {views} views of {len(images)} images{note}"

    def damage() -> list[str]:
        damaged = [shard.file for shard in bank.load()]
        listed = {*damaged, *(shard.file for shard in bank.shards)}
        rest = sorted(file for file in bank.folder.glob("*.npy") if file not in listed)
        return [*map(str, damaged), *(f"{file} (without a readable JSON file)" for file in rest)]

    def remove() -> None:
        with bank.locked():
            shutil.rmtree(bank.folder)

    return Entry(_FEATURES, bank.folder, describe, damage, remove)


def _statistics() -> Iterator[Entry]:
    from bcd.data.quality import image_statistics

    for file in sorted((cache_dir() / image_statistics.FOLDER).glob("*.npz")):

        def describe(file: Path = file) -> str:
            root, names, _ = image_statistics.read_cache(file)
            return f"{len(names)} images of {root}"

        yield _file(image_statistics.FOLDER, file, describe)


def _json(cache: JsonCache) -> Iterator[Entry]:
    for file in sorted((cache_dir() / cache.name).glob("*.json")):
        yield _file(cache.name, file, lambda file=file: cache.read(file)[0])  # type: ignore[misc]


def _file(kind: str, file: Path, read: Callable[[], str]) -> Entry:
    """An entry of one file; `read` describes it, and raises if it is damaged."""

    def describe() -> str:
        try:
            return read()
        except (OSError, ValueError):
            return "damaged"

    def damage() -> list[str]:
        try:
            read()
        except (OSError, ValueError) as error:
            return [f"{file} ({error})"]
        return []

    return Entry(kind, file, describe, damage, file.unlink)


def _other(path: Path) -> Entry:
    """What other programs, or other versions of this one, left in the cache."""
    return Entry(
        _OTHER,
        path,
        lambda: str(path.relative_to(cache_dir())),
        list,
        (lambda: shutil.rmtree(path)) if path.is_dir() and not path.is_symlink() else path.unlink,
    )
