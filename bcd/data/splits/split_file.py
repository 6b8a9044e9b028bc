"""Reads which subset and group each image is in from a CSV of the form of split.csv."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

from bcd.data.catalog import Catalog
from bcd.errors import BcdError, ConfigError
from bcd.storage import written_path


class Place(NamedTuple):
    """What a file says of an image: its subset and its group, either may be empty."""

    subset: str = ""
    group: str = ""


def read_places(catalog: Catalog, file: Path) -> list[Place]:
    """Matches rows to images by path, and where a path is not known by sha256.

    Args:
        catalog: The images.
        file: CSV with the columns path and subset, and optionally group and sha256.

    Returns:
        The place of each image; empty where the file does not name it. Where the file names no
        group, it is the catalog's.

    Raises:
        ConfigError: The file cannot be opened.
        BcdError: It is no such CSV, lists one path in two subsets or groups, names none of the
            images, or names another group than the catalog.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise ConfigError(f"split.file={file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BcdError(f"split.file={file}: not a CSV in UTF-8") from error
    if not rows or not {"path", "subset"} <= set(rows[0]):
        raise BcdError(f"split.file={file}: wants the columns path and subset")
    by_path: dict[str, Place] = {}
    for line, row in enumerate(rows, start=2):
        row["path"] = normpath(row["path"] or "")  # one path in two spellings is one path
        place = Place(row["subset"], row.get("group") or "")
        before = by_path.setdefault(row["path"], place)
        for name, now, then in zip(Place._fields, place, before, strict=True):
            if now != then:
                raise BcdError(
                    f"split.file={file} line {line}: {row['path']} is in {name} '{now}', but in "
                    f"'{then}' on an earlier line"
                )
    paths = [normpath(written_path(p.path)) for p in catalog.images]
    present = set(paths)
    by_hash: dict[str, list[Place]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["path"] in present):  # moved files' rows first
        if row.get("sha256"):
            by_hash[row["sha256"]].append(Place(row["subset"], row.get("group") or ""))
    places = [
        by_path.get(path) or _next(by_hash[p.sha256])
        for path, p in zip(paths, catalog.images, strict=True)
    ]
    if not any(place.subset for place in places):
        raise BcdError(f"split.file={file}: none of its images is in {catalog.root}")
    return _with_groups(catalog, file, places)


def _with_groups(catalog: Catalog, file: Path, places: Sequence[Place]) -> list[Place]:
    """Adds the catalog's groups; to follow either of two that differ would part the other's."""
    for image, place in zip(catalog.images, places, strict=True):
        if place.group and image.group and place.group != image.group:
            raise BcdError(
                f"split.file={file}: {image.path} is of group '{place.group}' there, but of "
                f"'{image.group}' by data.root or data.group_pattern; leave one of the two out"
            )
    return [
        place._replace(group=place.group or image.group)
        for image, place in zip(catalog.images, places, strict=True)
    ]


def _next(places: list[Place]) -> Place:
    """Takes the next of a hash's places; the last serves for any further copy of the file."""
    if not places:
        return Place()
    return places.pop(0) if len(places) > 1 else places[0]
