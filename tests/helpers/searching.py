"""Searches files and answers for texts, also where they are encoded or compressed."""

from __future__ import annotations

import base64
import gzip
import io
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
_GZIP = re.compile(rb"\x1f\x8b\x08")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_MOST = 20_000_000  # bytes of one part
_DEEPEST = 3  # parts in parts


def files_of(*folders: Path) -> dict[str, bytes]:
    """Every file below folders, and the names of all."""
    found = {str(file): file.read_bytes() for folder in folders for file in folder.rglob("*")
             if file.is_file()}  # fmt: skip
    return found | {"names of files": "\n".join(found).encode()}


def leaks(values: Iterable[str], places: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """Which of these texts are where, as (text, name of the place).

    They are found in UTF-8, UTF-16, base64, hexadecimal digits and percent signs, also in
    compressed streams, archives, PDF, Parquet and data in base64.
    """
    searches = [(value, _search(value)) for value in values]
    found = set()
    for place, data in places.items():
        whole = b"\0".join(_parts(data, 0))
        lower = whole.lower()
        found |= {(value, place) for value, search in searches if search(whole, lower)}
    return found


def _search(value: str) -> Callable[[bytes, bytes], bool]:
    plain = value.encode()
    small = [
        value.lower().encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")
    ] + [plain.hex().encode(), urllib.parse.quote(value, safe="").lower().encode()]  # fmt: skip
    small += [value.lower().encode("utf-16-be").hex().encode()]
    # What precedes a text shifts its base64 by zero to two bytes.
    exact = [
        base64.b64encode(b"\0" * shift + plain)[(0, 2, 3)[shift] : -4].rstrip(b"=")
        for shift in range(3)
    ]
    if value.isdigit():  # hashes and floats have any digits in them
        number = re.compile(rb"(?<![0-9a-f.])" + plain + rb"(?![0-9a-f.])")
        return lambda whole, lower: plain in lower and number.search(lower) is not None
    return lambda whole, lower: (
        any(each in lower for each in small) or any(each in whole for each in exact)
    )


def _parts(data: bytes, depth: int) -> Iterator[bytes]:
    """The bytes themselves, and what is packed in them."""
    yield data
    if depth == _DEEPEST:
        return
    for inner in _unpacked(data):
        yield from _parts(inner[:_MOST], depth + 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if data[:4] == b"PAR1":
        import pyarrow.parquet as parquet

        file = parquet.ParquetFile(io.BytesIO(data))
        yield repr((file.read().to_pylist(), file.metadata.metadata)).encode()
    if data[:5] == b"%PDF-":
        yield from _of_pdf(data)
    for start in (match.start() for match in _ZLIB.finditer(data)):
        try:
            yield zlib.decompressobj().decompress(data[start:], _MOST)
        except zlib.error:
            continue
    for start in (match.start() for match in _GZIP.finditer(data)):
        try:
            yield gzip.GzipFile(fileobj=io.BytesIO(data[start:])).read(_MOST)
        except (OSError, EOFError, zlib.error):
            continue
    for match in _BASE64.finditer(data):
        yield base64.b64decode(match[0].rstrip(b"=")[: len(match[0]) // 4 * 4] + b"==")


def _of_pdf(data: bytes) -> Iterator[bytes]:
    """The text of the pages, which fonts encode, and every stream and text of the document."""
    from pypdf import PdfReader
    from pypdf.generic import StreamObject

    reader = PdfReader(io.BytesIO(data))
    yield "\n".join(page.extract_text() for page in reader.pages).encode("utf-8", "replace")
    yield repr(reader.metadata).encode("utf-8", "replace")
    for numbers in reader.xref.values():
        for number in numbers:
            found = reader.get_object(number)
            if isinstance(found, StreamObject):
                yield found.get_data()
            else:
                yield repr(found).encode("utf-8", "replace")
