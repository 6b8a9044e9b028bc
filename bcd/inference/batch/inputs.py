"""What `input` refers to: files, folders, globs, lists of these, and archives, as one stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
