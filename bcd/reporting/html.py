"""HTML elements for self-contained pages: tables, charts, links."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

STATUSES = ("PASS", "WARN", "FAIL")


@dataclass(frozen=True)
class Link:
    """A link to a file.

    Attributes:
        text: What is shown.
        path: Of the file, relative to the page, with forward slashes.
    """

    text: str
    path: str

    @property
    def url(self) -> str:
        """The path, quoted."""
        return quote(self.path, errors="surrogateescape")


Cell = str | Link


def inline(cell: Cell) -> str:
    """The content of a cell: escaped text, a link, or a badge for PASS, WARN and FAIL."""
    if isinstance(cell, Link):
        return f'<a href="{html.escape(cell.url)}">{html.escape(cell.text)}</a>'
    if cell in STATUSES:
        return f'<span class="badge {cell}">{cell}</span>'
    return html.escape(cell)


def cell_text(cell: Cell) -> str:
    """The text of a cell."""
    return cell.text if isinstance(cell, Link) else cell


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def table(
    header: Sequence[str], rows: Iterable[Sequence[Cell]], numeric: bool = True, label: str = ""
) -> str:
    """A table in a container that scrolls; readers can sort it by clicking a column's title.

    Cells with PASS, WARN or FAIL are badges, and lines never break within a number.

    Args:
        header: Column names; if all are empty, no names are shown.
        rows: Cells.
        numeric: Whether columns of numbers are right-aligned.
        label: Names the table for screen readers; unique in the page.
    """
    rows = [list(row) for row in rows]
    columns = [[cell_text(row[place]) for row in rows] for place in range(len(header))]
    numbers = [any(column) and all(map(_is_number, filter(None, column))) for column in columns]

    def tag(name: str, number: bool) -> str:
        return f"{name} class=num" if number else name

    head = ""
    if any(header):
        cells = (
            f"<{tag('th', number)} scope=col>{html.escape(name)}</th>" if name else "<td></td>"
            for name, number in zip(header, numbers, strict=True)
        )
        head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    body = "\n".join(
        "<tr>"
        + "".join(f"<{tag('td', _is_number(cell_text(c)))}>{inline(c)}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    kinds = ["numeric"] * numeric + ["sortable"] * (bool(head) and len(rows) > 1)
    kinds += ["wide"] * (len(header) > _WIDE)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return scrolled(f"<table{kind}>{head}<tbody>{body}</tbody></table>", label or "Table")


_WIDE = 8  # columns above which a table is printed in small type

_NUMBER = re.compile(r"[+\-\u2212]?\d[\d\s.,+\-\u2212\u00b1\[\]/%e]*|-")


def _is_number(text: str) -> bool:
    """Whether a text is a number, also with an interval, a standard deviation or a total."""
    return _NUMBER.fullmatch(text) is not None


def scrolled(content: str, label: str) -> str:
    """A container in which wide content scrolls, also by keyboard.

    Args:
        content: HTML.
        label: Names the container for screen readers; unique in the page.
    """
    return (
        f'<div class=scroll role=region tabindex=0 aria-label="{html.escape(label)}">{content}'
        "</div>"
    )


def matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A confusion matrix as a table, shaded by the share of the true class.

    Args:
        counts: (k, k); rows are true classes.
        classes: Class names.
    """
    names = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in classes)
    lines = []
    for place, (name, row) in enumerate(zip(classes, counts, strict=True)):
        cells = (_matrix_cell(count, sum(row), place == k) for k, count in enumerate(row))
        lines.append(f"<tr><th scope=row>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f"<table class=matrix style=--classes:{len(classes)}><caption>Rows: true class. Columns: "
        "predicted class. Percentages are of the true class.</caption>"
        f"<thead><tr><td></td>{names}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _matrix_cell(count: int, total: int, right: bool) -> str:
    if not count:
        return "<td class=none style=--share:0>0</td>"
    share = count / total
    kind = "right" if right else "wrong"
    text = f"<b>{count}</b> <small>{share:.1%}</small>"
    return f"<td class={kind} style=--share:{share:.3f}>{text}</td>"


def embed_png(file: Path, title: str) -> str:
    """A PNG file, embedded in the page; it opens large."""
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<button type=button class=zoom><img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{data}"></button>'
    )


def embed_svg(file: Path, title: str) -> str:
    """An SVG file of `save_svg` as an element of the page, whose colours it takes."""
    text = file.read_text(encoding="utf-8").rstrip("\n")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2).replace("xlink:href", "href")
    return text.replace('role="img"', f'role="img" aria-label="{html.escape(title)}"', 1)
