"""Builds the catalog of a data root, and lists the input files of predict."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bcd.config.schema import DataConfig
from bcd.data.catalog import Catalog, ImageRecord, Rejected
from bcd.data.class_map import MALIGNANT, ClassMap
from bcd.data.files import is_image
from bcd.data.frames import split_frame
from bcd.data.layouts import Entry, benign_index, order_classes
from bcd.data.listing import file_of, list_images, list_pictures
from bcd.data.provide import provide_root
from bcd.data.scan import FileFacts, scan_files
from bcd.data.walk import Tree
from bcd.errors import BcdError, ConfigError
from bcd.storage import typed_path


def load_catalog(
    cfg: DataConfig,
    classes: Sequence[str] | None = None,
    keep: Sequence[int] = (),
    class_map: ClassMap | None = None,
) -> Catalog:
    """Builds the catalog of `data.root`, generating or downloading the images if configured.

    Args:
        cfg: The `data` group.
        classes: Class names of a trained model; the images' classes must be among them.
        keep: Sides of the network's inputs in pixels. New files are then measured and resized in
            the same pass that checks them, so that later steps do not decode them again.
        class_map: How the images' classes map to `classes`; None if they must be the same.

    Returns:
        The catalog. Its last class is `MALIGNANT` if images are mapped to it.

    Raises:
        BcdError: The root is not available, has no classes, or a class has no usable image.
    """
    root = provide_root(cfg)
    base, everything = list_images(root, cfg.variant)
    if classes is not None and class_map is not None:
        everything, classes = _mapped(everything, classes, cfg.benign, class_map, root)
    entries = [entry for entry in everything if not entry.reason]
    scan = scan_files([entry.path for entry in entries], root, cfg.min_size, keep)
    names = tuple(classes) if classes is not None else order_classes(e.class_name for e in entries)
    _check_classes(root, entries, scan.facts, names, trained=classes is not None)
    images: list[ImageRecord] = []
    rejected = [
        Rejected(relative_path(entry.path, base), entry.class_name, entry.reason)
        for entry in everything
        if entry.reason
    ]
    for entry, fact in zip(entries, scan.facts, strict=True):
        path = relative_path(entry.path, base)
        if fact.error:
            rejected.append(Rejected(path, entry.class_name, fact.error))
            continue
        label, frame = names.index(entry.class_name), split_frame(entry.path)[1]
        group = entry_group(entry, base, cfg.group_pattern)
        seen = (fact.sha256, fact.width, fact.height)
        alias = "" if entry.alias_of is None else relative_path(entry.alias_of, base)
        images.append(
            ImageRecord(path, label, *seen, group, entry.subset, entry.site, frame, alias)
        )
    rejected.sort(key=lambda item: item.path)
    benign = benign_index(names, cfg.benign)
    catalog = Catalog(base, names, benign, tuple(images), tuple(rejected), scan.how, scan.kept)
    if not cfg.drop_duplicates:
        return catalog
    from bcd.data.quality.profile import drop_duplicates

    return drop_duplicates(catalog)


def _mapped(
    entries: Sequence[Entry],
    classes: Sequence[str],
    benign: str | None,
    class_map: ClassMap,
    root: Path,
) -> tuple[list[Entry], Sequence[str]]:
    """Entries with the classes of a model, without those left out, and these classes."""
    names = order_classes(entry.class_name for entry in entries if entry.class_name)
    found = class_map.resolve(names, classes, benign_index(classes, benign), root)
    found[""] = ""  # files beside the class folders
    kept = [(entry, found[entry.class_name]) for entry in entries]
    mapped = [replace(entry, class_name=name) for entry, name in kept if name is not None]
    coarse = MALIGNANT not in classes and MALIGNANT in found.values()
    return mapped, (*classes, MALIGNANT) if coarse else classes


def expand_inputs(inputs: Sequence[str], key: str = "input") -> list[Path]:
    """Lists input images: of files, folders (searched recursively) and globs.

    Of a DICOM file with several pictures each is listed, as `<file>#<number>`. Includes folders
    that could not be searched and broken links; `folder_reason` gives the reason.

    Args:
        inputs: As typed.
        key: The setting that they were given in, for the error.

    Raises:
        BcdError: One of them matches nothing.
    """
    files: list[Path] = []
    for text in inputs:
        found, _ = matching_files(typed_path(text))
        before = len(files)
        files += list_pictures(found)
        if len(files) == before:
            raise no_image(text, key)
    return list(dict.fromkeys(files))


def no_image(text: str, key: str = "input") -> BcdError:
    """The error for a typed path that matches no image."""
    return BcdError(f"{key}={text}: no image there; give a file, a folder or a glob")


def matching_files(path: Path) -> tuple[Iterable[Path], int]:
    """The files that a path refers to, in order, and their number.

    Args:
        path: A file, a picture of one, a folder or a glob. The files of a folder are found while
            they are iterated over; memory does not grow with their number, except for those in one
            folder.
    """
    if os.path.isdir(path):  # noqa: PTH112  (never raises)
        tree = Tree(path, is_image)
        return (found.path for found in tree), tree.count
    if os.path.lexists(split_frame(path)[0]):
        return [path], 1
    names = _matching(path)
    return map(Path, names), len(names)


def _matching(pattern: Path) -> list[str]:
    """Files that match a glob; brackets in the names of existing folders are taken literally."""
    import glob

    start = pattern
    while not os.path.exists(start):  # noqa: PTH110  (never raises)
        start = start.parent
    rest = pattern.relative_to(start)
    found = glob.glob(str(Path(glob.escape(str(start))) / rest), recursive=True)  # noqa: PTH207
    # In the order of paths, whose parts are compared one by one.
    return sorted(set(found), key=lambda name: name.replace(os.sep, "\0"))


def _check_classes(
    root: Path,
    entries: Sequence[Entry],
    facts: Sequence[FileFacts],
    names: Sequence[str],
    *,
    trained: bool,
) -> None:
    usable = Counter(e.class_name for e, f in zip(entries, facts, strict=True) if not f.error)
    for name in sorted({entry.class_name for entry in entries}):
        if name not in names:
            raise BcdError(
                f"{root} has the class '{name}', but the model knows only {', '.join(names)}"
            )
        if not usable[name]:
            reason = next(
                f.error for e, f in zip(entries, facts, strict=True) if e.class_name == name
            )
            raise BcdError(f"{root}: no image of class '{name}' can be used (first: {reason})")
    if len(names) < 2 and not trained:
        raise BcdError(f"{root} has one class only ('{names[0]}'): a classifier needs two or more")


def relative_path(path: Path, base: Path) -> str:
    """A path below `base` relative to it, any other as it is; with forward slashes."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def entry_group(entry: Entry, base: Path, pattern: str | None) -> str:
    """Group of a listed image: the given one, or what a pattern finds in the path of its file.

    Pictures of one file without either are a group of their own, which has the name of the file.
    """
    alone = split_frame(entry.path)[1] is None
    return given_group(entry, base, pattern) or (
        "" if alone else relative_path(file_of(entry), base)
    )


def given_group(entry: Entry, base: Path, pattern: str | None) -> str:
    """Group of a listed image in its CSV, or what a pattern finds in the path of its file."""
    return entry.group or group_of(relative_path(file_of(entry), base), pattern)


def group_of(path: str, pattern: str | None) -> str:
    """The group that a regular expression finds in a path; empty without one.

    Raises:
        ConfigError: It is no regular expression.
    """
    if pattern is None:
        return ""
    try:
        match = re.search(pattern, path)
    except re.error as error:
        raise ConfigError(
            f"data.group_pattern={pattern}: not a regular expression ({error})"
        ) from None
    if match is None:
        return ""
    return (match.group(1) if match.groups() else match.group(0)) or ""
