"""Finds every file below folders, following links, and lists what could not be searched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class Found:
    """A file, or something that could not be searched, with the reason."""

    path: Path
    reason: str = ""


def find_files(folders: Sequence[Path]) -> list[list[Found]]:
    """Finds the files below each folder.

    Links to folders are followed, after all other folders. No folder is searched twice, whether it
    has another name or a link leads back to a parent folder. Such folders are listed with the
    reason, as are broken links and folders that cannot be read.

    Args:
        folders: Where to search; a file belongs to the first of them that contains it.

    Returns:
        What was found in each folder, in no particular order.
    """
    above = {own for folder in folders for own in _above(folder)}
    seen: dict[Identity, Path] = {}
    found: list[list[Found]] = [[] for _ in folders]
    waiting = [*reversed(list(enumerate(folders)))]
    links: list[tuple[int, Path]] = []
    while waiting or links:
        place, folder = waiting.pop() if waiting else links.pop(0)
        try:
            own = _identity(folder)
            if own in seen or own in above:
                found[place].append(Found(folder, _again(seen.get(own))))
                continue
            seen[own] = folder
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found[place].append(Found(folder, unread_folder(error)))
            continue
        for entry in listed:
            path = folder / entry.name
            if not is_folder(entry):
                found[place].append(Found(path, "a broken link" if is_broken(entry) else ""))
            elif entry.is_symlink():
                links.append((place, path))
            else:
                waiting.append((place, path))
    return found


def unread_folder(error: OSError) -> str:
    """The reason for a folder that could not be listed."""
    return f"a folder that cannot be read ({error.strerror})"


def folder_reason(path: Path) -> str:
    """Why nothing was found below a folder or broken link; empty if the path is neither."""
    if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110  (never raises)
        return "a broken link"
    if not os.path.isdir(path):  # noqa: PTH112  (never raises)
        return ""
    try:
        with os.scandir(path):
            return _again(None)
    except OSError as error:
        return unread_folder(error)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; false if this cannot be determined."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to nothing, or to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110  (never raises)


def _identity(folder: Path) -> Identity:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _above(folder: Path) -> list[Identity]:
    """Identities of the parent folders that are accessible."""
    found = []
    for parent in Path(os.path.realpath(folder)).parents:
        try:
            found.append(_identity(parent))
        except OSError:
            continue
    return found


def _again(first: Path | None) -> str:
    where = "another name" if first is None else f"the name {first}"
    return f"a folder that is searched under {where}"
