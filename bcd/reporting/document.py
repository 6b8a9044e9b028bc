"""Documents: titled sections of paragraphs, tables and figures, as a web page or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcd.reporting.html import embed_png, heading, paragraph, table, write_page
from bcd.storage import write_text


@dataclass(frozen=True)
class Table:
    """Names of the columns and rows of cells; `figures` where all but the first hold numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: bool = True


@dataclass(frozen=True)
class Figure:
    """A PNG in the run's folder `figures`, left out where it is not there."""

    name: str
    title: str


Block = str | Table | Figure


@dataclass(frozen=True)
class Section:
    """A title and what stands below it."""

    title: str
    blocks: Sequence[Block]


def write_html(file: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes a page in one file; figures are taken from the folder `figures` beside it."""
    parts = []
    for section in sections:
        parts.append(heading(section.title))
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(table(block.header, block.rows, block.figures))
            elif isinstance(block, Figure):
                image = file.parent / "figures" / f"{block.name}.png"
                if image.is_file():
                    parts.append(embed_png(image, block.title))
            else:
                parts.append(paragraph(block))
    write_page(file, title, parts)


def write_markdown(file: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes the same as Markdown, without figures."""
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
    rule = ["---", *("---:" if block.figures else "---" for _ in block.header[1:])]
    rows = [block.header, rule, *block.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
