"""The search for names in what a server says and writes finds them however they are packed."""

from __future__ import annotations

import base64
import gzip
import io
import zipfile
import zlib
from urllib.parse import quote

import pyarrow as pa
from PIL import Image, PngImagePlugin
from pyarrow import parquet

from bcd.serving.reports.pdf import case_pdf
from tests.helpers.searching import leaks
from tests.serving.making import IDENTITY
from tests.serving.pages.filling import case_of


def packed(value: str) -> dict[str, bytes]:
    """A text in every form in which it is searched for, among other bytes."""
    plain, archive, table, page = value.encode(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.txt", f"of {value}\n" * 9)
    parquet.write_table(pa.table({"a": ["x", value]}), table, compression="zstd")
    picture = PngImagePlugin.PngInfo()
    picture.add_text("a", value, zip=True)
    Image.new("RGB", (9, 9)).save(page, "PNG", pnginfo=picture)
    case = case_of([], label=value)
    return {
        "plain": b"x " + plain, "UTF-16": b"x" + value.encode("utf-16-le"),
        "hexadecimal": plain.hex().upper().encode(), "URL": quote(value, safe="").encode(),
        **{f"base64 {n}": base64.b64encode(b"x" * n + plain + b"yyyy") for n in range(3)},
        "gzip": gzip.compress(plain), "stream": b"xyz" + zlib.compress(b"of " + plain) + b"xyz",
        "zip": archive.getvalue(), "parquet": table.getvalue(), "PNG": page.getvalue(),
        "page": b"<img src=data:image/png;base64," + base64.b64encode(page.getvalue()) + b">",
        "PDF": case_pdf(case, IDENTITY, {}, "1:a"),
    }  # fmt: skip


def test_the_search_finds_a_text_however_it_is_packed() -> None:
    places = packed("Leak0Name^Qzxv") | {"other": b"Leak1Name^Qzxv" * 9}
    assert leaks(["Leak0Name^Qzxv"], places) == {
        ("Leak0Name^Qzxv", place) for place in places if place != "other"
    }
    assert leaks(["18051231"], {"in a hash": b"a18051231c", "date": b"at 18051231."}) == set()
    assert leaks(["18051231"], {"date": b'"18051231"'}) == {("18051231", "date")}
