"""The manifest of a folder of predictions: what makes the rows, and which of them are there."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bcd
from bcd.errors import BcdError
from bcd.inference.batch.shards import Shard
from bcd.inference.batch.tally import Tally
from bcd.storage import replacing, written_path

FORMAT = 1
FORMS = ("csv", "parquet")
_START, _END = "manifest", ".json"


@dataclass(frozen=True)
class Part:
    """A file with rows.

    Attributes:
        file: Its name.
        rows: Number of rows, and of images.
        sha256: Of the file.
        names: sha256 over the names of all images up to its last one.
    """

    file: str
    rows: int
    sha256: str
    names: str


@dataclass
class Manifest:
    """What is known about the parts of one shard.

    Attributes:
        model: The model: file name and sha256.
        settings: Everything else that determines the rows.
        parts: The parts that are complete, in order.
        tally: Counts over their rows, as `Tally.to_plain` writes them.
        finished: Whether these are all.
        card_sha256: sha256 of the model's card; empty until the model is loaded.
        bcd: Version that wrote it.
        runs: For each start of the program: host, start, last write, and rows up to then.
        format: Version of this format.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    parts: list[Part] = field(default_factory=list)
    tally: dict[str, Any] | None = None
    finished: bool = False
    card_sha256: str = ""
    bcd: str = bcd.__version__
    runs: list[dict[str, Any]] = field(default_factory=list)
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Number of rows in all parts."""
        return sum(part.rows for part in self.parts)

    def begin(self) -> None:
        """Notes that a run starts here."""
        now = _now()
        run = {"host": platform.node(), "started": now, "written": now, "rows": self.rows}
        self.runs.append(run)

    def write(self, file: Path) -> None:
        """Writes it atomically, and waits until it is on disk.

        Raises:
            OSError: The file cannot be written; an existing one is unchanged.
        """
        self.runs[-1] |= {"written": _now(), "rows": self.rows}
        text = json.dumps(asdict(self), indent=1)
        with replacing(file, durable=True) as stream:
            stream.write(f"{text}\n".encode("ascii"))


def manifest_name(shard: Shard) -> str:
    """Name of a shard's manifest."""
    return f"{_START}{shard.suffix}{_END}"


def read_manifest(file: Path) -> Manifest | None:
    """Reads a manifest; None if there is none.

    Raises:
        BcdError: It is damaged, or of another version.
    """
    try:
        plain = json.loads(file.read_text(encoding="ascii"))
        if _number(plain["format"]) != FORMAT:
            raise BcdError(
                f"output={file.parent}: {file.name} has format {plain['format']}, not "
                f"{FORMAT}: use the version of bcd that wrote it, or another folder"
            )
        known = {f.name: plain[f.name] for f in fields(Manifest)}
        known["parts"] = [Part(**part) for part in plain["parts"]]
        found = Manifest(**known)
        _check(found, file.name.removeprefix(_START).removesuffix(_END))
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file) from error


def damaged(file: Path) -> BcdError:
    """The error for a manifest whose content cannot be used."""
    return BcdError(f"output={file.parent}: {file.name} cannot be read: choose another folder")


def _check(found: Manifest, suffix: str) -> None:
    """Checks the types of all values, the names of the parts, and that counts agree.

    Raises:
        ValueError: Something is wrong; also other errors of wrong types.
    """
    _of(dict, found.model, found.settings, *found.runs)
    _of(list, found.runs)
    _of(bool, found.finished)
    texts = [found.card_sha256, found.bcd]
    for run in found.runs:
        texts += [run["host"], run["started"], run["written"]]
        _number(run["rows"])
    for number, part in enumerate(found.parts, start=1):
        form = found.settings["format"]
        if form not in FORMS or part.file != f"part{suffix}-{number:06d}.{form}":
            raise ValueError("not the name of this part")
        if _number(part.rows) < 1:
            raise ValueError("a part without rows")
        texts += [part.sha256, part.names]
    _of(str, *texts)
    if found.tally is None:
        if found.parts or found.finished:
            raise ValueError("no counts")
        return
    tally = Tally.from_plain(found.tally)
    if tally.unanswered + tally.predicted.total() != found.rows:
        raise ValueError("other counts than rows")


def _of(kind: type, *values: object) -> None:
    if not all(isinstance(value, kind) for value in values):
        raise TypeError(f"not of type {kind.__name__}")


def _number(value: object) -> int:
    """A count."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a count")
    return value


def find_change(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> str:
    """Says in words what is different now; empty if nothing is."""
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if old != new:
            return f"{what}{key} was {json.dumps(old)} and is now {json.dumps(new)}"
    return ""


class Names:
    """A hash over the names of images, one after the other."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str) -> None:
        """Adds a name."""
        self._hash.update(written_path(name).encode("utf-8", "backslashreplace") + b"\n")

    def digest(self) -> str:
        """The hash over the names so far."""
        return self._hash.copy().hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
