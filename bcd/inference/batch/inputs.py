"""What `input` refers to: files, folders, globs, lists of these, and archives, as one stream."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from bcd.data.dicom.counting import each_frame
from bcd.data.items import Item
from bcd.data.load import matching_files, no_image
from bcd.errors import BcdError
from bcd.inference.batch.archive import SUFFIXES, archive_items, is_archive
from bcd.inference.batch.lists import is_list, listed_items
from bcd.storage import typed_path


@dataclass(frozen=True)
class Inputs:
    """Images to predict, one after the other.

    Attributes:
        items: The images.
        total: Their number; somewhat more where inputs overlap, less where a DICOM file has several
            pictures. None if it is not known.
    """

    items: Iterator[Item]
    total: int | None


def open_inputs(inputs: Sequence[str], column: str, limit: int | None = None) -> Inputs:
    """Opens inputs and checks that each has an image.

    Args:
        inputs: As typed: files, folders, globs, lists (.txt, .csv, .parquet) and tar archives.
        column: Column of a CSV or Parquet list that has the paths.
        limit: Maximum number of images; None for all.

    Returns:
        The images in the order of the inputs. A file that several typed files, folders and globs
        refer to is there once; what a list names is there as often as it is named. A DICOM file
        with several pictures is an image for each.

    Raises:
        BcdError: An input matches nothing, or a list cannot be read; also while iterating.
    """
    seen: set[str] | None = set() if len(inputs) > 1 else None
    opened = [_open(text, column, seen) for text in inputs]
    totals = [one.total for one in opened]
    known = None if None in totals else sum(total for total in totals if total is not None)
    if limit is not None and known is not None:
        known = min(limit, known)
    items = each_frame(itertools.chain.from_iterable(one.items for one in opened))
    return Inputs(itertools.islice(items, limit), known)


def input_that_lists(folder: Path, inputs: Sequence[str]) -> str | None:
    """The typed folder or glob that would list the DICOM objects about images, or their folders.

    Args:
        folder: Has a folder with objects for each image.
        inputs: As for `open_inputs`.
    """
    own = Path(os.path.realpath(folder))
    for text in inputs:
        start = path = typed_path(text)
        while not os.path.exists(start):  # noqa: PTH110  (never raises)
            start = start.parent
        root = Path(os.path.realpath(start))
        if own.is_relative_to(root):
            place, pattern = own.relative_to(root).parts, path.relative_to(start).parts or ("**",)
            made = (place, (*place, "-"), (*place, None, "report.dcm"))
            if any(_matches(parts, pattern) for parts in made):
                return text
    return None


def _matches(parts: Sequence[str | None], pattern: Sequence[str]) -> bool:
    """Whether a glob finds a path, of which a part that is None may be any."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    if not parts or not (parts[0] is None or fnmatch(parts[0], pattern[0])):
        return False
    return _matches(parts[1:], pattern[1:])


def _open(text: str, column: str, seen: set[str] | None) -> Inputs:
    path = typed_path(text)
    if is_list(path):
        return Inputs(_checked(listed_items(path, column), f"input={text}: no path in it"), None)
    if is_archive(path):
        empty = f"input={text}: no image in this archive: its images need names like 1.jpg or 1.png"
        return Inputs(_checked(archive_items(path, str(path)), empty), None)
    files, count = matching_files(path)
    if not count:
        raise no_image(text)
    archives = text.lower().endswith(SUFFIXES)  # a glob of them
    return Inputs(_items(files, seen), None if archives else count)


def _checked(items: Iterator[Item], otherwise: str) -> Iterator[Item]:
    """The items, after the first was looked at."""
    first = next(items, None)
    if first is None:
        raise BcdError(otherwise)
    return itertools.chain([first], items)


def _items(files: Iterable[Path], seen: set[str] | None) -> Iterator[Item]:
    for path in files:
        if is_archive(path):
            yield from archive_items(path, str(path))
            continue
        item = Item.of(path)
        if seen is not None:
            if item.name in seen:
                continue
            seen.add(item.name)
        yield item
