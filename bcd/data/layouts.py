"""Finds the class of every file under a folder or in a CSV, in the layouts people download."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bcd.data.files import SUFFIXES
from bcd.errors import BcdError

# The four classes as people read them, and in this order; hematogones are the benign look-alike.
CANONICAL = ("Benign", "Early Pre-B", "Pre-B", "Pro-B")
_ALIASES = {
    "benign": "Benign",
    "hematogones": "Benign",
    "hematogone": "Benign",
    "early": "Early Pre-B",
    "earlypre": "Early Pre-B",
    "earlypreb": "Early Pre-B",
    "pre": "Pre-B",
    "preb": "Pre-B",
    "pro": "Pro-B",
    "prob": "Pro-B",
}
_SUBSET_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Entry:
    """One file that claims to be a picture of a class.

    Attributes:
        path: Where it is.
        class_name: Class as people read it.
        group: Slide or patient, empty where unknown.
        subset: Subset from a CSV, empty where none is given.
    """

    path: Path
    class_name: str
    group: str = ""
    subset: str = ""


def canonical_name(folder: str) -> str | None:
    """Returns the class that a folder name of either published set stands for, else None."""
    plain = re.sub(r"\[.*?\]|\b(malignant|wbc)\b", "", folder.lower())
    return _ALIASES.get(re.sub(r"[^a-z]", "", plain))


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Orders class names: the four known ones as in `CANONICAL`, others by name."""
    found = set(names)
    if found <= set(CANONICAL):
        return tuple(name for name in CANONICAL if name in found)
    return tuple(sorted(found))


def list_entries(root: Path, variant: str) -> tuple[Path, list[Entry]]:
    """Lists the files of a data root, which is a folder of class folders or a CSV.

    Args:
        root: Folder, or CSV with the columns path, class and optionally group and split.
        variant: `original` or `segmented`; where both stand side by side, only this one is read.

    Returns:
        The folder that paths are written relative to, and the entries sorted by path.

    Raises:
        BcdError: No class folders, or a malformed CSV.
    """
    if root.is_file():
        entries = _from_csv(root)
        base = root.parent
    else:
        base = _descend(root, variant)
        entries = _from_folders(base)
    return base, sorted(entries, key=lambda entry: entry.path.as_posix())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_class(folder: Path) -> bool:
    known = canonical_name(folder.name) is not None
    return known or any(p.suffix.lower() in SUFFIXES for p in folder.iterdir())


def _descend(root: Path, variant: str) -> Path:
    """Goes down through wrapping folders to the one that holds the class folders."""
    folder = root
    while True:
        below = _subfolders(folder)
        by_name = {p.name.lower(): p for p in below}
        if "original" in by_name or "segmented" in by_name:
            if variant not in by_name:
                raise BcdError(f"{folder} has no folder '{variant.title()}': choose data.variant=")
            return by_name[variant]
        if len(below) != 1 or _is_class(below[0]) or not _subfolders(below[0]):
            return folder
        folder = below[0]


def _from_folders(base: Path) -> list[Entry]:
    folders = _subfolders(base)
    if folders and all(f.name.lower() in _SUBSET_FOLDERS for f in folders):
        raise BcdError(
            f"{base} is divided into {', '.join(f.name for f in folders)}, not into classes: give "
            "data.root one of them, or a CSV with the columns path, class, split and split=csv"
        )
    if not folders:
        raise BcdError(
            f"{base} has no class folders: data.root wants one folder per class, or a CSV"
        )
    canonical = {f: canonical_name(f.name) for f in folders}
    known = set(canonical.values())
    use_canonical = None not in known and len(known) == len(folders)
    entries = []
    for folder in folders:
        name = (canonical[folder] if use_canonical else None) or folder.name
        files = [p for p in folder.rglob("*") if p.is_file()]
        if not any(p.suffix.lower() in SUFFIXES for p in files):
            raise BcdError(f"class folder {folder} holds no pictures: fill it or move it elsewhere")
        entries += [Entry(p, name) for p in files]
    return entries


def _from_csv(file: Path) -> list[Entry]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BcdError(f"data.root={file} is neither a folder nor a CSV in UTF-8") from error
    missing = {"path", "class"} - set(columns)
    if missing:
        raise BcdError(
            f"{file} lacks the column {' and '.join(sorted(missing))}: "
            "data.root wants a CSV with path, class and optionally group and split"
        )
    if not rows:
        raise BcdError(f"{file} has no rows")
    for column in ("path", "class"):
        cells = [(row[column] or "").strip() for row in rows]
        if "" in cells:
            raise BcdError(f"{file} line {cells.index('') + 2} has no {column}")
    names = [row["class"].strip() for row in rows]
    canonical = {name: canonical_name(name) for name in names}
    known = set(canonical.values())
    use_canonical = None not in known and len(known) == len(canonical)
    return [
        Entry(
            file.parent / row["path"],
            (canonical[name] if use_canonical else None) or name,
            (row.get("group") or "").strip(),
            (row.get("split") or row.get("subset") or "").strip().lower(),
        )
        for name, row in zip(names, rows, strict=True)
    ]
