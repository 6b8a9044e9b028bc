"""Lists of images: text files, CSVs and Parquet files, read line by line."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bcd.console import printable
from bcd.data.frames import split_frame
from bcd.data.items import Item
from bcd.data.load import matching_files
from bcd.errors import BcdError, ConfigError
from bcd.inference.batch.archive import archive_items, is_archive
from bcd.storage import typed_path

_LONGEST_LINE = 1 << 16  # characters
_ROWS = 4096  # of a Parquet file that are in memory
_WILDCARDS = frozenset("*?[")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks
_TEXT = ("string", "large_string", "string_view")  # not all versions of pyarrow know the last one
_SHOWN = 200  # characters of a header in a message


def is_list(path: Path) -> bool:
    """Whether this is a file with the suffix of a list."""
    return path.suffix.lower() in _READERS and os.path.isfile(path)  # noqa: PTH113


def listed_items(path: Path, column: str) -> Iterator[Item]:
    """Yields the images that a list names, as often as it names them.

    A line of a text file is a file, a picture of one (`file.dcm#2`), an archive, a folder or a
    glob; a cell of a CSV or Parquet file is one of the first three. Relative paths are relative to
    the list's folder or, where there is no such file, to the working folder. Rows have the paths
    that the list has.

    Args:
        path: The list: .txt, .csv or .parquet.
        column: Column that has the paths; without effect for a text file.

    Raises:
        BcdError: It cannot be read, or has no such column.
    """
    suffix = path.suffix.lower()
    for text in _read(path, column, suffix):
        try:
            yield from _named(text, path.parent, suffix == ".txt")
        except (OSError, ValueError) as error:  # costs this line only
            why = getattr(error, "strerror", None) or type(error).__name__
            yield Item(text, reason=f"cannot be read ({why})")


def _read(path: Path, column: str, suffix: str) -> Iterator[str]:
    """The lines or cells of a list."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start[:2] in _UTF_16 or (start.count(0) == 2 and b"\0\0" not in start):
            raise BcdError(f"input={path}: is UTF-16: save it as UTF-8")
        yield from _READERS[suffix](path, column)
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise BcdError(f"input={path}: cannot be read ({why})") from error


def _lines(path: Path, _: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        while line := stream.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise BcdError(f"input={path}: not a list of paths (a line is too long)")
            if text := line.rstrip("\r\n"):
                yield text


def _cells(path: Path, column: str) -> Iterator[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames is None:  # an empty file
            return
        _check_column(path, column, list(reader.fieldnames))
        for row in reader:
            yield row[column] or ""


def _values(path: Path, column: str) -> Iterator[str]:
    arrow, parquet = import_parquet(f"input={path}")
    try:
        with parquet.ParquetFile(path) as file:
            _check_column(path, column, file.schema_arrow.names)
            kind = file.schema_arrow.field(column).type
            if not _is_text(arrow.types, kind):
                raise ConfigError(f"input_column={column}: is {kind} in {path}, not text")
            for batch in file.iter_batches(_ROWS, columns=[column]):
                for value in batch.column(0):
                    yield value.as_py() or ""
    except arrow.ArrowException as error:
        raise BcdError(f"input={path}: not a Parquet file that can be read") from error


def _is_text(types: Any, kind: Any) -> bool:
    if types.is_dictionary(kind):
        return _is_text(types, kind.value_type)
    return str(kind) in _TEXT


_READERS = {".txt": _lines, ".csv": _cells, ".parquet": _values}


def import_parquet(key: str) -> tuple[Any, Any]:
    """Imports `pyarrow` and `pyarrow.parquet`.

    Raises:
        BcdError: It is not installed; begins with the setting that needs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BcdError(f"{key}: Parquet needs a package: pip install 'bcd[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _check_column(path: Path, column: str, names: list[str]) -> None:
    if column in names:
        return
    from bcd.config.check import nearest

    listed = printable(", ".join(names))
    if len(listed) > _SHOWN:
        listed = f"{listed[:_SHOWN]}…"
    raise ConfigError(
        f"input_column={column}: {path} has the columns {listed}{nearest(column, names)}"
    )


def _named(text: str, folder: Path, wildcards: bool) -> Iterator[Item]:
    """The images of one line or cell."""
    if not text:
        yield Item("", reason="no path in this row of the list")
        return
    if "\0" in text:
        yield Item(text, reason="cannot be read (its name has a zero byte)")
        return
    base = _base(text, folder)
    path = typed_path(text) if base is None else base / text
    if is_archive(path):
        yield from archive_items(path, text)
    elif wildcards and (
        os.path.isdir(path)  # noqa: PTH112  (never raises)
        or (not os.path.lexists(path) and _WILDCARDS & set(text))
    ):
        yield from _found(text, path, base)
    else:
        yield replace(Item.of(path), name=text)


def _base(text: str, folder: Path) -> Path | None:
    """The list's folder if a path is relative to it; None for the working folder."""
    own, other = split_frame(folder / text)[0], split_frame(typed_path(text))[0]
    return folder if os.path.lexists(own) or not os.path.lexists(other) else None


def _found(text: str, path: Path, base: Path | None) -> Iterator[Item]:
    """The images of a folder or glob, with names as the list would have them."""
    files, count = matching_files(path)
    for file in files:
        inside = base is not None and not Path(text).is_absolute()
        name = str(file.relative_to(base) if inside and base else file)
        if is_archive(file):
            yield from archive_items(file, name)
        else:
            yield Item(name, file)
    if not count:
        yield Item(text, reason="no image there")
