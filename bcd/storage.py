"""Where things are kept, and writing so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

PART = ".part"  # ends the names of files that are being written


def cache_dir() -> Path:
    """Returns the folder for what can be computed again: $BCD_CACHE, else ~/.cache/bcd."""
    return Path(os.environ.get("BCD_CACHE") or Path.home() / ".cache" / "bcd")


@contextlib.contextmanager
def replacing(file: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file to write under a temporary name; at the end it is moved, so readers see all.

    Where the block raises, nothing is left and what stood at `file` still stands there.

    Args:
        file: Where the content goes; its folder is made.
        durable: Whether to wait until the content is on disk before it is moved.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}{PART}")
    try:
        with part.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.filename in (None, str(part)):  # a person knows the file by its own name
            error.filename, error.filename2 = str(file), None
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text in one move."""
    with replacing(file) as stream:
        # A file name that is not UTF-8, which Linux allows, must not cost the others their rows.
        stream.write(text.encode("utf-8", "backslashreplace"))


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV with one header line, UTF-8, in one move."""
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(file, text.getvalue())
