"""Documents of titled sections with paragraphs, tables and figures, as HTML or Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.reporting.html import embed_png, heading, paragraph, table, write_page
from bcd.storage import write_text


@dataclass(frozen=True)
class Table:
    """Column names and rows of cells; `numeric` if all but the first column hold numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = True


@dataclass(frozen=True)
class Figure:
    """A PNG in the folder `figures` of a run; left out if the file does not exist."""

    name: str
    title: str


Block = str | Table | Figure


@dataclass(frozen=True)
class Section:
    """A title and its content."""

    title: str
    blocks: Sequence[Block]


def write_html(file: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes a self-contained page; figures are read from the folder `figures` beside it."""
    parts = []
    for section in sections:
        parts.append(heading(section.title))
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(table(block.header, block.rows, block.numeric))
            elif isinstance(block, Figure):
                image = file.parent / "figures" / f"{block.name}.png"
                if image.is_file():
                    parts.append(embed_png(image, block.title))
            else:
                parts.append(paragraph(block))
    write_page(file, title, parts)


def write_markdown(file: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes Markdown, without figures."""
    lines = [f"# {title}"]
    for section in sections:
        lines += ["", f"## {section.title}"]
        for block in section.blocks:
            if isinstance(block, Table):
                lines += ["", *_markdown_table(block)]
            elif isinstance(block, str):
                lines += ["", block]
    write_text(file, "\n".join(lines) + "\n")


def _markdown_table(block: Table) -> list[str]:
    rule = ["---", *("---:" if block.numeric else "---" for _ in block.header[1:])]
    rows = [block.header, rule, *block.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
