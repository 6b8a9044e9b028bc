"""Lists the images of a data root: its files, and each picture of the DICOM files of several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bcd.data.dicom.claims import count_in_file, too_many
from bcd.data.frames import join_frame, split_frame
from bcd.data.layouts import Entry, list_entries
from bcd.errors import BcdError


def list_images(root: Path, variant: str) -> tuple[Path, list[Entry]]:
    """Lists the images of a data root.

    Of a DICOM file with several pictures each is an image, with the path `<file>#<number>`. A line
    of a CSV may name the file, for all of its pictures, or one of them.

    Args:
        root: As in `list_entries`.
        variant: As in `list_entries`.

    Returns:
        As `list_entries`.

    Raises:
        BcdError: As `list_entries`, or a picture is listed twice, or pictures of one file in
            different groups.
    """
    base, files = list_entries(root, variant)
    entries = list(_with_aliases(_pictures(files)))
    _check_once(root, entries)
    return base, _with_groups(root, entries)


def list_pictures(files: Iterable[Path]) -> Iterator[Path]:
    """Lists files; of a DICOM file with several pictures each, unless it is to be rejected."""
    for entry in _pictures([Entry(file, "") for file in files]):
        yield entry.path


def _pictures(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        file, frame = split_frame(entry.path)
        count = 1 if entry.reason else count_in_file(file)
        if why := too_many(count):
            yield replace(entry, reason=why)
        elif frame is not None:
            yield replace(entry, path=file) if count == frame == 1 else entry
        elif count == 1:
            yield entry
        else:
            own = [join_frame(file, number) for number in range(1, count + 1)]
            taken = next((path for path in own if os.path.lexists(path)), None)
            if taken is not None:
                yield replace(entry, reason=f"its picture has the name of the file {taken.name}")
                continue
            for path in own:
                yield replace(entry, path=path)


def file_of(entry: Entry) -> Path:
    """The file of an image, by one path for all pictures in it."""
    return entry.alias_of or split_frame(entry.path)[0]


def _with_aliases(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Notes which pictures have another path of a file that was listed before.

    A CSV may spell one path in several ways, and symbolic links are more names of a file. Taken for
    several files, one would be in several sets. Hard links are files of their own, as copies are.
    """
    first: dict[str, Path] = {}  # path of a file, by what it is without links
    known: dict[Path, Path] = {}  # the same, by each of its paths
    for entry in entries:
        file, frame = split_frame(entry.path)
        if frame is None:
            yield entry
            continue
        if file not in known:
            known[file] = first.setdefault(os.path.realpath(file), file)
        yield entry if known[file] == file else replace(entry, alias_of=known[file])


def _check_once(root: Path, entries: Sequence[Entry]) -> None:
    """Refuses a CSV that names a file and a picture of it, or one picture in two ways."""
    seen: set[str] = set()
    for entry in entries:
        if (path := os.path.normpath(entry.path)) in seen:
            raise BcdError(
                f"data.root={root}: {entry.path.name} is listed twice, as a picture and by its "
                "file: remove one of the lines"
            )
        seen.add(path)


def _with_groups(root: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Gives pictures of one file that have no group the group of the others.

    Raises:
        BcdError: Others are in two groups: then a split could tear the file apart.
    """
    groups: dict[Path, str] = {}
    for entry in entries:
        if split_frame(entry.path)[1] is None or not entry.group:
            continue
        file = file_of(entry)
        if groups.setdefault(file, entry.group) != entry.group:
            raise BcdError(
                f"data.root={root}: pictures of {file.name} are in the groups '{groups[file]}' and "
                f"'{entry.group}': give pictures of one file one group"
            )
    if not groups:
        return list(entries)
    return [
        replace(entry, group=entry.group or groups.get(file_of(entry), "")) for entry in entries
    ]
