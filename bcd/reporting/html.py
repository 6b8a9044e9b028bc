"""HTML elements for self-contained pages: tables, images, headings."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcd.storage import write_text

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;vertical-align:top}
td,th{border-bottom:1px solid #ddd;text-align:left}
table.numeric td:not(:first-child),table.numeric th:not(:first-child){text-align:right}
img{max-width:100%}.note{color:#555}.PASS{color:#1a7f37}.WARN{color:#9a6700}.FAIL{color:#cf222e}
figure{display:inline-block;margin:.3rem;font-size:.7rem;max-width:9rem;overflow-wrap:anywhere}
.cluster{border:1px solid #ddd;display:inline-block;margin:.3rem}
"""


def write_page(file: Path, title: str, parts: Iterable[str]) -> None:
    """Writes a page of HTML parts; the file is replaced atomically."""
    body = "\n".join(parts)
    write_text(
        file,
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}"
        f"</title><style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{body}\n"
        "</body></html>\n",
    )


def note(text: str) -> str:
    """A paragraph in small print."""
    return f"<p class=note>{html.escape(text)}</p>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    """A second-level heading."""
    return f"<h2>{html.escape(text)}</h2>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: bool = True) -> str:
    """A table; cells with PASS, WARN or FAIL are coloured.

    Args:
        header: Column names.
        rows: Cells, as plain text.
        numeric: Whether all columns but the first hold numbers, which are right-aligned.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}{_colour(c)}>{html.escape(c)}</{tag}>" for c in cells)

    body = "\n".join(line(row, "td") for row in rows)
    kind = " class=numeric" if numeric else ""
    return f"<table{kind}><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def _colour(cell: str) -> str:
    return f" class={cell}" if cell in ("PASS", "WARN", "FAIL") else ""


def embed_png(file: Path, title: str) -> str:
    """A PNG file, embedded in the page."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def thumbnail(image: NDArray[np.uint8], caption: str, side: int = 128) -> str:
    """A small JPEG of an RGB image, resized to `side` pixels, with a caption."""
    import cv2

    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    _, code = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    data = base64.b64encode(code.tobytes()).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
