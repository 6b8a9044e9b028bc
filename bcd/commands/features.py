"""Lists, verifies and removes feature banks.

bcd features list
bcd features verify [key ...]
bcd features remove key ... | --all
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bcd.console import say, show_table
from bcd.errors import BcdError, ConfigError
from bcd.features.bank import Bank, all_banks, banks_dir


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 1 where a bank is damaged."""
    parser = argparse.ArgumentParser(
        prog="bcd features", description="Lists, verifies and removes feature banks."
    )
    parser.add_argument("command", choices=("list", "verify", "remove"))
    parser.add_argument("keys", nargs="*", help="beginnings of banks' names")
    parser.add_argument("--all", action="store_true", help="remove every bank")
    asked = parser.parse_args(arguments)
    banks = _choose(asked.keys)
    if asked.command == "list":
        return _list(banks)
    if asked.command == "verify":
        return _verify(banks)
    if not asked.keys and not asked.all:
        raise ConfigError("remove which? give keys (see list) or --all")
    return _remove(banks)


def _choose(keys: Sequence[str]) -> list[Bank]:
    banks = list(all_banks())
    for key in keys:
        if not any(bank.folder.name.startswith(key) for bank in banks):
            raise BcdError(f"{key}: no such bank in {banks_dir()}")
    return [b for b in banks if not keys or b.folder.name.startswith(tuple(keys))]


def _list(banks: Sequence[Bank]) -> int:
    rows = []
    for bank in banks:
        bank.load()
        images = {name for shard in bank.shards for name in shard.images}
        views = sum(len(shard.images) * len(shard.views) for shard in bank.shards)
        used = f"{datetime.fromtimestamp(bank.folder.stat().st_mtime):%Y-%m-%d}"
        size = f"{bank.size() / 1e6:.1f} MB"
        rows.append([bank.folder.name[:8], _what(bank), str(len(images)), str(views), size, used])
    show_table(str(banks_dir()), ["bank", "of", "images", "views", "size", "written"], rows)
    total = sum(bank.size() for bank in banks)
    say(f"{len(banks)} banks, {total / 1e6:.1f} MB; remove them with bcd features remove")
    return 0


def _what(bank: Bank) -> str:
    try:
        facts: dict[str, Any] = json.loads((bank.folder / "cache_key.json").read_text("utf-8"))
        drawn = f"seed {facts['augment']['seed']}" if "augment" in facts else "plain"
        return f"{facts['backbone']}[:{facts['blocks']}], {drawn}"
    except (OSError, ValueError, LookupError, TypeError):
        return "cache_key cannot be read"


def _verify(banks: Sequence[Bank]) -> int:
    status = 0
    for bank in banks:
        damaged = bank.load()
        for shard in damaged:
            say(f"damaged: {shard.file} (the next run that needs it makes it again)")
            status = 1
        say(f"{bank.folder.name}: {len(bank.shards)} shards whole, {len(damaged)} damaged")
    return status


def _remove(banks: Sequence[Bank]) -> int:
    for bank in banks:
        size = bank.size()
        with bank.locked():
            shutil.rmtree(bank.folder)
        say(f"removed {bank.folder.name} ({size / 1e6:.1f} MB)")
    return 0
