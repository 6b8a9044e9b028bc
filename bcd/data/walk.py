"""Finds every file below folders, following links, and lists what could not be searched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Identity = tuple[int, int]  # device and inode

_BROKEN = "a broken link"


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
    found: list[list[Found]] = [[] for _ in folders]
    _search(folders, lambda place, one: found[place].append(one), lambda _: None)
    return found


@dataclass
class Tree:
    """The files below a folder, one after the other; see `find_files` for what is searched.

    Only the names of folders, and those in one folder at a time, are in memory.

    Args:
        root: The folder.
        wanted: Returns whether a file of that path is listed; asked twice of each.

    Attributes:
        count: Number of files, and of folders and links that could not be searched.
    """

    root: Path
    wanted: Callable[[str], bool]
    count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._refused: dict[str, str] = {}  # folders
        self._searched: set[str] = set()
        _search([self.root], self._count, lambda folder: self._searched.add(str(folder)))

    def _count(self, _: int, one: Found) -> None:
        self.count += bool(one.reason) or self.wanted(str(one.path))
        if one.reason and one.reason != _BROKEN:  # there may be any number of links
            self._refused[str(one.path)] = one.reason

    def __iter__(self) -> Iterator[Found]:
        """Yields what there is, in the order of `sorted` paths."""
        root = str(self.root)
        if root in self._refused:
            yield Found(self.root, self._refused[root])
            return
        waiting = [iter(_names(root))]
        folders = [root]
        while waiting:
            name = next(waiting[-1], None)
            if name is None:
                waiting.pop()
                folders.pop()
                continue
            path = _joined(folders[-1], name)
            if path in self._refused:
                yield Found(Path(path), self._refused[path])
            elif path in self._searched:
                waiting.append(iter(_names(path)))
                folders.append(path)
            elif _is_broken_link(path):
                yield Found(Path(path), _BROKEN)
            elif self.wanted(path):
                yield Found(Path(path))


def _joined(folder: str, name: str) -> str:
    """The text of a path that is joined like a `Path`, which takes more memory."""
    return name if folder == os.curdir else os.path.join(folder, name)  # noqa: PTH118


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  (names alone take less memory)
    except OSError:  # it was removed meanwhile
        return []


def _search(
    folders: Sequence[Path],
    listed: Callable[[int, Found], object],
    searched: Callable[[Path], object],
) -> None:
    """Searches folders.

    Args:
        folders: Where to search.
        listed: Called with the number of the folder and what was found below it.
        searched: Called with every folder that is listed.
    """
    above = {own for folder in folders for own in _above(folder)}
    seen: dict[Identity, Path] = {}
    waiting = [*reversed(list(enumerate(folders)))]
    links: list[tuple[int, Path]] = []
    while waiting or links:
        place, folder = waiting.pop() if waiting else links.pop(0)
        try:
            own = _identity(folder)
            if own in seen or own in above:
                listed(place, Found(folder, _again(seen.get(own))))
                continue
            seen[own] = folder
            folders_inside: list[os.DirEntry[str]] = []
            with os.scandir(folder) as entries:
                searched(folder)
                for entry in entries:
                    if is_folder(entry):
                        folders_inside.append(entry)
                    else:
                        why = _BROKEN if is_broken(entry) else ""
                        listed(place, Found(folder / entry.name, why))
        except OSError as error:
            listed(place, Found(folder, unread_folder(error)))
            continue
        for entry in sorted(folders_inside, key=lambda entry: entry.name):
            target = links if entry.is_symlink() else waiting
            target.append((place, folder / entry.name))


def unread_folder(error: OSError) -> str:
    """The reason for a folder that could not be listed."""
    return f"a folder that cannot be read ({error.strerror})"


def folder_reason(path: Path) -> str:
    """Why nothing was found below a folder or broken link; empty if the path is neither."""
    if _is_broken_link(path):
        return _BROKEN
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


def _is_broken_link(path: str | Path) -> bool:
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114  (never raise)


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
