"""Finds the class of every file below a folder or in a CSV, in the layouts in circulation."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.config.schema import BENIGN
from bcd.data.files import has_image_suffix, is_image
from bcd.data.frames import split_frame
from bcd.data.walk import Found, find_files, is_broken, is_folder
from bcd.errors import BcdError, ConfigError
from bcd.storage import written_path

# Display names of the four classes, in this order; hematogones are benign cells that look similar.
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
    """One file listed as an image of a class.

    Attributes:
        path: Of the file.
        class_name: Display name of the class.
        group: Slide or patient, empty if unknown.
        subset: Subset from a CSV, empty if none is given.
        reason: Why it is unusable, if this is known before it is read, else empty.
        site: Hospital or laboratory from a CSV, empty if none is given.
        alias_of: Of a picture in a file of several, the name of this file that was listed first;
            None if the path has that one.
    """

    path: Path
    class_name: str
    group: str = ""
    subset: str = ""
    reason: str = ""
    site: str = ""
    alias_of: Path | None = None


def canonical_name(folder: str) -> str | None:
    """Returns the class of a folder name used by either published set, else None."""
    plain = re.sub(r"\[.*?\]|\b(malignant|wbc)\b", "", folder.lower())
    return _ALIASES.get(re.sub(r"[^a-z]", "", plain))


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Orders class names: the four known ones as in `CANONICAL`, others by name."""
    found = set(names)
    if found <= set(CANONICAL):
        return tuple(name for name in CANONICAL if name in found)
    return tuple(sorted(found))


def benign_index(classes: Sequence[str], benign: str | None) -> int | None:
    """Index of the class that is not cancer; None if there is none.

    Args:
        classes: Class names.
        benign: `data.benign`. The default value may be missing from the classes.

    Raises:
        ConfigError: Any other value is missing from the classes.
    """
    from bcd.config.check import command_line, nearest

    if benign is None:
        return None
    for name in (benign, canonical_name(benign)):
        if name in classes:
            return classes.index(name)
    if benign == BENIGN and "data.benign" not in command_line():
        return None
    raise ConfigError(
        f"data.benign={benign}: no such class; the classes are {', '.join(classes)}"
        f"{nearest(benign, classes)} (data.benign=null if none is benign)"
    )


def list_entries(root: Path, variant: str) -> tuple[Path, list[Entry]]:
    """Lists the files of a data root, which is a folder of class folders or a CSV.

    Args:
        root: Folder, or CSV with the columns path, class and optionally group, split and site.
        variant: `original` or `segmented`; if both folders exist, only this one is read.

    Returns:
        The folder that paths are written relative to, and the entries sorted by path.

    Raises:
        BcdError: No class folders, one that cannot be read, or a malformed CSV.
    """
    if root.is_file():
        entries = _from_csv(root)
        base = root.parent
    else:
        base, beside = _descend(root, variant)
        entries = beside + _from_folders(base)
    return base, sorted(entries, key=lambda entry: entry.path.as_posix())


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder that must be readable, by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise BcdError(f"{folder} cannot be read ({error.strerror})") from error


def _subfolders(folder: Path) -> list[Path]:
    below = []
    for entry in _listed(folder):
        if is_broken(entry) and not has_image_suffix(entry.name):  # it may have been a class
            raise BcdError(f"{entry.path} is a broken link: fix or remove it")
        if is_folder(entry) and not entry.name.startswith("."):
            below.append(folder / entry.name)
    return below


def _is_class(folder: Path) -> bool:
    known = canonical_name(folder.name) is not None
    return known or any(is_image(entry.path) for entry in _listed(folder))


def _descend(root: Path, variant: str) -> tuple[Path, list[Entry]]:
    """Descends through wrapping folders to the one that contains the class folders.

    Returns:
        That folder, and the entries found on the way that belong to no class.
    """
    folder, beside = root, _beside(root)
    while True:
        below = _subfolders(folder)
        by_name = {p.name.lower(): p for p in below}
        if "original" in by_name or "segmented" in by_name:
            if variant not in by_name:
                raise BcdError(f"{folder} has no folder '{variant.title()}': choose data.variant=")
            folder = by_name[variant]
            return folder, beside + _beside(folder)
        if len(below) != 1 or _is_class(below[0]) or not _subfolders(below[0]):
            return folder, beside
        folder = below[0]
        beside += _beside(folder)


def _beside(folder: Path) -> list[Entry]:
    """Images and hidden folders beside class folders."""
    found = []
    for entry in _listed(folder):
        if is_folder(entry) and entry.name.startswith("."):
            found.append(Entry(folder / entry.name, "", reason="a hidden folder is not a class"))
        elif not is_folder(entry) and is_image(entry.path):
            found.append(Entry(folder / entry.name, "", reason="is beside the class folders"))
    return found


def _from_folders(base: Path) -> list[Entry]:
    folders = _subfolders(base)
    if folders and all(f.name.lower() in _SUBSET_FOLDERS for f in folders):
        raise BcdError(
            f"{base} is divided into {', '.join(f.name for f in folders)}, not into classes: give "
            "data.root one of them, or a CSV with the columns path, class, split and split=csv"
        )
    if not folders:
        raise BcdError(
            f"{base} has no class folders: data.root needs one folder per class, or a CSV"
        )
    names = _class_names(base, [folder.name for folder in folders])
    entries = []
    for folder, found in zip(folders, find_files(folders), strict=True):
        if found and found[0].path == folder:
            raise BcdError(f"class folder {folder} is {found[0].reason}")
        if not any(is_image(item.path) for item in found if not item.reason):
            raise BcdError(_hollow(folder, found))
        entries += [Entry(item.path, names[folder.name], reason=item.reason) for item in found]
    return entries


def _hollow(folder: Path, found: Sequence[Found]) -> str:
    unread = next((item for item in found if item.reason), None)
    if unread is None:
        return f"class folder {folder} holds no images: fill it or move it elsewhere"
    return f"class folder {folder} holds no images but {unread.path}, {unread.reason}"


def _class_names(place: Path, names: Iterable[str]) -> dict[str, str]:
    """Display name of the class that each name denotes.

    Raises:
        BcdError: Two names differ only in case, whitespace or the encoding of accents, or one is
            not UTF-8.
    """
    own = list(dict.fromkeys(names))
    first: dict[str, str] = {}
    for name in own:
        if written_path(name) != name:
            raise BcdError(
                f"{place} has a class {written_path(name)!r}, which is not UTF-8: rename it"
            )
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        if plain in first:
            raise BcdError(f"{place} has classes {first[plain]!r} and {name!r}: give them one name")
        first[plain] = name
    canonical = {name: canonical_name(name) for name in own}
    known = set(canonical.values())
    use_canonical = None not in known and len(known) == len(own)
    return {name: (canonical[name] if use_canonical else None) or name for name in own}


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
            f"{file} lacks the column{'s' * (len(missing) > 1)} "
            f"{' and '.join(sorted(missing))}: "
            "data.root needs a CSV with path, class and optionally group, split and site"
        )
    if not rows:
        raise BcdError(f"{file} has no rows")
    for column in ("path", "class", "site"):
        cells = [(row.get(column) or "").strip() for row in rows]
        if "" in cells and (column != "site" or any(cells)):
            raise BcdError(f"{file} line {cells.index('') + 2} has no {column}")
    names = _class_names(file, (row["class"].strip() for row in rows))
    paths = [_file_of(file.parent, row["path"]) for row in rows]
    _check_rows(file, rows, paths)
    return [
        Entry(
            path,
            names[row["class"].strip()],
            (row.get("group") or "").strip(),
            (row.get("split") or row.get("subset") or "").strip().lower(),
            site=(row.get("site") or "").strip(),
        )
        for path, row in zip(paths, rows, strict=True)
    ]


def _file_of(folder: Path, text: str) -> Path:
    """The file named by a row; backslashes, as Windows writes them, are tried as separators."""
    path = folder / text
    if "\\" in text and not os.path.lexists(split_frame(path)[0]):
        other = folder / text.replace("\\", "/")
        return other if os.path.lexists(split_frame(other)[0]) else path
    return path


def _check_rows(file: Path, rows: Sequence[dict[str, str]], paths: Sequence[Path]) -> None:
    first: dict[str, int] = {}
    for line, (row, path) in enumerate(zip(rows, paths, strict=True), start=2):
        if None in row:
            raise BcdError(
                f"{file} line {line} has more cells than columns: quote cells that contain commas"
            )
        same = first.setdefault(os.path.normpath(path), line)
        if same != line:
            raise BcdError(
                f"{file} lines {same} and {line} name the same file: remove one: {row['path']}"
            )
