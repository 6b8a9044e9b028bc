"""Reads the subset and group of each image from a CSV in the format of split.csv."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

import numpy as np

from bcd.data.catalog import Catalog
from bcd.data.frames import picture_sha256
from bcd.errors import BcdError, ConfigError
from bcd.storage import typed_path, written_path


class Place(NamedTuple):
    """Subset and group of an image in a file; either may be empty."""

    subset: str = ""
    group: str = ""


def read_subsets(
    catalog: Catalog, file: str | None, known: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Subsets and groups from a CSV in the format of split.csv, or from the catalog's own CSV.

    Args:
        catalog: The images.
        file: The CSV; None for the catalog's own.
        known: Names of subsets.

    Returns:
        Subset of each image, (n,); `excluded` for an image without one; and the groups.

    Raises:
        BcdError: There are no subsets, an unknown one, or as in `read_places`.
    """
    if file is None:
        groups = tuple(image.group for image in catalog.images)
        subsets = np.array([p.subset for p in catalog.images], dtype=object)
        if not any(subsets):
            raise BcdError(
                "split=csv needs split.file=<a split.csv>, or a data.root CSV with a column 'split'"
            )
        source = "column 'split'"
    else:
        places = read_places(catalog, typed_path(file))
        groups = tuple(place.group for place in places)
        subsets = np.array([place.subset for place in places], dtype=object)
        source = file
    subsets[subsets == ""] = "excluded"
    unknown = sorted(set(subsets) - set(known))
    if unknown:
        raise BcdError(f"{source}: unknown subset '{unknown[0]}'; known are {', '.join(known)}")
    return subsets, groups


def read_places(catalog: Catalog, file: Path) -> list[Place]:
    """Matches rows to images by path, or by sha256 if the path is unknown.

    A row may name an image, or the file of several pictures for all of them.

    Args:
        catalog: The images.
        file: CSV with the columns path and subset, and optionally group and sha256.

    Returns:
        The place of each image; empty if the file does not list it. Without a group in the file,
        the catalog's group is used.

    Raises:
        ConfigError: The file cannot be opened.
        BcdError: It is not such a CSV, lists one path in two subsets or groups, lists none of the
            images, or gives an image another group than the catalog.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise ConfigError(f"split.file={file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BcdError(f"split.file={file}: not a CSV in UTF-8") from error
    if not rows or not {"path", "subset"} <= set(rows[0]):
        raise BcdError(f"split.file={file}: requires the columns path and subset")
    by_path: dict[str, Place] = {}
    for line, row in enumerate(rows, start=2):
        row["path"] = normpath(row["path"] or "")  # different spellings of one path
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
    files = [normpath(written_path(p.file)) for p in catalog.images]
    sha256s = _known_files(catalog, by_hash)
    moved: dict[str, Place] = {}
    places: list[Place] = []
    for path, whole, image in zip(paths, files, catalog.images, strict=True):
        found = by_path.get(path) or by_path.get(whole) or _next(by_hash[image.sha256])
        if found is None and image.file in sha256s:
            found = moved.get(image.file) or _next(by_hash[sha256s[image.file]])
            moved[image.file] = found or Place()
        places.append(found or Place())
    if not any(place.subset for place in places):
        raise BcdError(f"split.file={file}: none of its images is in {catalog.root}")
    return _with_groups(catalog, file, places)


def _with_groups(catalog: Catalog, file: Path, places: Sequence[Place]) -> list[Place]:
    """Adds the catalog's groups; if both differ, following one would split the other's groups."""
    for image, place in zip(catalog.images, places, strict=True):
        if place.group and image.given_group and place.group != image.group:
            raise BcdError(
                f"split.file={file}: {image.path} is in group '{place.group}' there, but in "
                f"'{image.group}' by data.root or data.group_pattern; remove one of the two"
            )
    return [
        place._replace(group=place.group or image.group)
        for image, place in zip(catalog.images, places, strict=True)
    ]


def _known_files(catalog: Catalog, sha256s: Iterable[str]) -> dict[str, str]:
    """The sha256 of each file of several pictures that is one of these, by its path.

    The catalog has only those of pictures. One picture says which file it is.
    """
    first = {p.file: p for p in reversed(catalog.images) if p.frame is not None}
    of_picture = {
        picture_sha256(sha256, frame): sha256
        for frame in {p.frame for p in first.values()}
        for sha256 in sha256s
    }
    known = {file: of_picture.get(p.sha256, "") for file, p in first.items()}
    return {file: sha256 for file, sha256 in known.items() if sha256}


def _next(places: list[Place]) -> Place | None:
    """Takes the next place of a hash; the last one is used for any further copies of the file."""
    if not places:
        return None
    return places.pop(0) if len(places) > 1 else places[0]
