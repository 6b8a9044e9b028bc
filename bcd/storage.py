"""Where things are kept, and writing so that nothing is ever half-written."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path


def cache_dir() -> Path:
    """Returns the folder for what can be computed again: $BCD_CACHE, else ~/.cache/bcd."""
    return Path(os.environ.get("BCD_CACHE") or Path.home() / ".cache" / "bcd")


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text under a temporary name and moves it, so readers see all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        temporary.chmod(0o644)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV with one header line, UTF-8, in one move."""
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(file, text.getvalue())
