"""The cache folder, and writing files atomically."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PART = ".part"  # suffix of files that are being written


def cache_dir() -> Path:
    """Returns the cache folder: $BCD_CACHE, else ~/.cache/bcd."""
    return Path(os.environ.get("BCD_CACHE") or Path.home() / ".cache" / "bcd")


def digest(text: str) -> str:
    """sha256 of a text, which may hold file names that are not UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def file_sha256(file: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        OSError: It cannot be read.
    """
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while data := stream.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def plain_json(value: Any) -> str:
    """JSON in ASCII with sorted keys; numbers that JSON does not know become null."""
    return json.dumps(_finite(value), sort_keys=True, ensure_ascii=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def typed_path(text: str) -> Path:
    """A typed path: as it is if it exists, else with a leading ~ expanded."""
    path = Path(text)
    if os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def written_path(path: str) -> str:
    r"""A path in the form in which it is written to files.

    Linux allows names that are not UTF-8. Python holds their odd bytes as lone surrogates, which
    neither UTF-8 nor JSON can write; they are written as `\xff`.
    """
    return re.sub("[\udc80-\udcff]", lambda odd: f"\\x{ord(odd[0]) - 0xDC00:02x}", path)


_LONGEST_NAME = 200  # bytes; most file systems allow 255, some of which `replacing` needs


def short_name(name: str) -> str:
    """The name of a file, or a hash of it if it is so long that a suffix may not fit."""
    return name if len(os.fsencode(name)) <= _LONGEST_NAME else digest(name)[:16]


@contextlib.contextmanager
def replacing(file: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """Opens a temporary file for writing and renames it at the end, so that readers see all of it.

    If the block raises, the temporary file is removed and an existing `file` is unchanged.

    Args:
        file: The file to write; its folder is made.
        durable: Whether to wait until the content is on disk before renaming.
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
        if error.errno is not None and error.filename in (None, str(part)):
            # Users know the file by its final name.
            error.filename, error.filename2 = str(file), None
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(file) as stream:
        stream.write(written_path(text).encode("utf-8", "backslashreplace"))


def csv_line(cells: Sequence[object]) -> str:
    """One row of a CSV with its newline."""
    text = io.StringIO()
    # Readers end a line at a carriage return, which Python quotes only with this terminator.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV with one header line, UTF-8, atomically."""
    write_text(file, "".join(csv_line(row) for row in (header, *rows)))


class GrowingFile:
    """A file that is appended to under a temporary name and renamed at the end.

    Args:
        file: Its final name; the folder is made.

    Attributes:
        part: Its temporary name, in the same folder.

    Raises:
        OSError: It cannot be written, or there is hardly any space left.
    """

    def __init__(self, file: Path) -> None:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "there is a folder of that name")
        self.part = file.with_name(f"{file.name}.{os.getpid()}{PART}")
        self._file = file
        self._made = [folder for folder in file.parents if not folder.exists()]
        self._length = 0
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.part.open("wb", buffering=0)
            self._began = self.part.stat().st_mtime
            self._write(bytes(1 << 16))
            self._stream.truncate(0)
            self._stream.seek(0)
        except OSError as error:
            self.discard()
            if error.filename == str(self.part):
                error.filename = str(file)
            raise

    def append(self, text: str) -> None:
        """Appends UTF-8 text; if that fails, the file keeps its previous content."""
        data = text.encode("utf-8", "backslashreplace")
        try:
            self._write(data)
        except OSError:
            self._stream.truncate(self._length)
            self._stream.seek(self._length)
            raise
        self._length += len(data)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._stream.write(left) :]
        except OSError as error:
            error.filename = str(self._file)  # users know the file by its final name
            raise

    def finish(self) -> None:
        """Renames the file to its final name, and removes what killed processes left of it."""
        self.close()
        self.part.replace(self._file)
        pattern = re.compile(re.escape(self._file.name) + r"\.([0-9]+)" + re.escape(PART))
        with contextlib.suppress(OSError):
            for other in list(self._file.parent.iterdir()):
                match = pattern.fullmatch(other.name)
                # A younger one may be of a process on another machine.
                if match and _is_gone(int(match[1])) and other.stat().st_mtime < self._began:
                    other.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file and keeps it under its temporary name."""
        self._stream.close()

    def discard(self) -> None:
        """Removes the file, and the folders that were made for it."""
        with contextlib.suppress(OSError, AttributeError):
            self._stream.close()
        with contextlib.suppress(OSError):
            self.part.unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()


def _is_gone(process: int) -> bool:
    """Whether there is no such process on this machine; False if that is unknown."""
    if os.name != "posix":  # where signal 0 is not only a question
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@dataclass(frozen=True)
class JsonCache:
    """Results of one kind that can be computed again, one file each below `cache_dir()`.

    A file has two lines of JSON: a header, which says what the content is about and holds the
    sha256 of that and of the second line, and the content.

    Attributes:
        name: Of the folder.
    """

    name: str

    def file(self, key: str) -> Path:
        """Where the content for a key is; a key is a text of any length."""
        return cache_dir() / self.name / f"{digest(key)[:16]}.json"

    def load(self, key: str) -> Any:
        """The content for a key; None if there is none or it is damaged."""
        try:
            return self.read(self.file(key))[1]
        except (OSError, ValueError):
            return None

    def save(self, key: str, about: str, content: Any) -> None:
        """Writes the content for a key; a cache that cannot be written is not an error."""
        text, about = json.dumps(content), written_path(about)
        header = json.dumps({"sha256": digest(f"{about}\n{text}"), "about": about})
        with contextlib.suppress(OSError), replacing(self.file(key)) as stream:
            stream.write(f"{header}\n{text}\n".encode("ascii"))

    @staticmethod
    def read(file: Path) -> tuple[str, Any]:
        """What a file is about, and its content.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is damaged.
        """
        head, _, text = file.read_text(encoding="ascii").removesuffix("\n").partition("\n")
        header = json.loads(head)
        if not isinstance(header, dict):
            raise ValueError("no header")
        about = str(header.get("about"))
        if header.get("sha256") != digest(f"{about}\n{text}"):
            raise ValueError("wrong checksum")
        return about, json.loads(text)
