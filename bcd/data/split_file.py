"""Reads which subset each picture is in from a CSV of the form of split.csv."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from bcd.data.catalog import Catalog
from bcd.errors import BcdError, ConfigError
from bcd.storage import written_path


def read_subsets(catalog: Catalog, file: Path) -> np.ndarray:
    """Matches rows to pictures by path, and where a path is not known by sha256.

    Args:
        catalog: The pictures.
        file: CSV with the columns path and subset, and optionally sha256.

    Returns:
        (n,), the subset of each picture; empty where the file does not name it.

    Raises:
        ConfigError: The file cannot be opened.
        BcdError: It is no such CSV, lists one path in two subsets, or names none of the pictures.
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
    by_path: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if by_path.setdefault(row["path"], row["subset"]) != row["subset"]:
            raise BcdError(
                f"split.file={file} line {line}: {row['path']} is in {row['subset']}, but "
                f"in {by_path[row['path']]} on an earlier line"
            )
    paths = [written_path(p.path) for p in catalog.pictures]
    present = set(paths)
    by_hash: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["path"] in present):  # moved files' rows first
        if row.get("sha256"):
            by_hash[row["sha256"]].append(row["subset"])
    subsets = [
        by_path.get(path) or _next(by_hash[p.sha256])
        for path, p in zip(paths, catalog.pictures, strict=True)
    ]
    if not any(subsets):
        raise BcdError(f"split.file={file}: none of its pictures is in {catalog.root}")
    return np.array(subsets, dtype=object)


def _next(subsets: list[str]) -> str:
    """Takes the next of a hash's subsets; the last serves for any further copy of the file."""
    if not subsets:
        return ""
    return subsets.pop(0) if len(subsets) > 1 else subsets[0]
