"""Documents of titled sections with paragraphs, tables, figures and galleries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcd.reporting.gallery import Gallery, gallery_html
from bcd.reporting.html import (
    Cell,
    Link,
    cell_text,
    embed_png,
    embed_svg,
    paragraph,
    scrolled,
    table,
)
from bcd.reporting.overview import Overview
from bcd.reporting.page import replace_page_section, write_page
from bcd.reporting.page import section as framed
from bcd.storage import write_text


@dataclass(frozen=True)
class Table:
    """Column names and rows of cells; `numeric` if all but the first column hold numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: bool = True


@dataclass(frozen=True)
class Figure:
    """A chart (SVG) or photographs (PNG) in the folder `figures` of a run; left out if absent."""

    name: str
    title: str


Block = str | Table | Figure | Gallery


@dataclass(frozen=True)
class Section:
    """A title and its content."""

    title: str
    blocks: Sequence[Block]


def write_html(
    file: Path, title: str, sections: Iterable[Section], overview: Overview | None = None
) -> None:
    """Writes a self-contained page; figures are read from the folder `figures` beside it.

    Args:
        file: The page.
        title: Of the page.
        sections: Its sections, which the contents list.
        overview: What comes above them.
    """
    parts = [_html_section(one, file.parent) for one in sections]
    if overview is None:
        write_page(file, title, parts)
    else:
        write_page(file, title, parts, overview.to_html(), overview.subtitle)


def write_markdown(
    file: Path, title: str, sections: Iterable[Section], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes Markdown, without figures and galleries.

    Args:
        file: The file.
        title: Of the document.
        sections: Its sections.
        metadata: Written as YAML before the title, as Hugging Face's model cards have it.
    """
    lines = [f"# {title}"]
    if metadata is not None:
        import yaml

        head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True).rstrip("\n")
        lines = ["---", head, "---", "", *lines]
    for section in sections:
        lines += ["", *_markdown_lines(section)]
    write_text(file, "\n".join(lines) + "\n")


def replace_section(file: Path, section: Section, before: str) -> None:
    """Replaces the section of the same title in a document that this module wrote, or adds it.

    Args:
        file: HTML, or Markdown if its name ends in .md.
        section: The section.
        before: Title of the section that a new one comes before; at the end if there is none.

    Raises:
        OSError: The file cannot be read or written.
    """
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        text = _replace_in_markdown(text, section, before)
    else:
        new = _html_section(section, file.parent)
        text = replace_page_section(text, section.title, new, before)
    write_text(file, text.rstrip("\n") + "\n")


def _replace_in_markdown(text: str, section: Section, before: str) -> str:
    new, end = "\n".join(_markdown_lines(section)) + "\n\n", len(text)
    starts = [f"## {title}\n" for title in (section.title, before)]
    place, later = (text.find(f"\n{start}") + 1 for start in starts)
    if place:
        after = text.find("\n## ", place) + 1 or end
        return f"{text[:place]}{new}{text[after:]}"
    place = later or end
    return f"{text[:place]}{new}{text[place:]}"


def _html_section(section: Section, folder: Path) -> str:
    parts: list[str] = []
    tables = charts = 0
    for block in section.blocks:
        if isinstance(block, Table):
            tables += 1
            label = f"{section.title}, table {tables}"
            parts.append(table(block.header, block.rows, block.numeric, label))
        elif isinstance(block, Figure):
            charts += 1
            label = f"{section.title}, figure {charts}"
            parts.append(_html_figure(block, folder / "figures", label))
        elif isinstance(block, Gallery):
            parts.append(gallery_html(block))
        else:
            parts.append(paragraph(block))
    return framed(section.title, list(filter(None, parts)))


def _html_figure(figure: Figure, folder: Path, label: str) -> str:
    drawn, image = (folder / f"{figure.name}.{kind}" for kind in ("svg", "png"))
    if drawn.is_file():
        content = scrolled(embed_svg(drawn, figure.title), label)
    elif image.is_file():
        content = embed_png(image, figure.title)
    else:
        return ""
    return f"<div class=chart>{content}</div>"


def _markdown_lines(section: Section) -> list[str]:
    lines = [f"## {section.title}"]
    for block in section.blocks:
        if isinstance(block, Table):
            lines += ["", *_markdown_table(block)]
        elif isinstance(block, str):
            lines += ["", block]
    return lines


def _markdown_table(block: Table) -> list[str]:
    rule = ["---", *("---:" if block.numeric else "---" for _ in block.header[1:])]
    rows = [block.header, rule, *block.rows]
    return ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in rows]


def _markdown_cell(cell: Cell) -> str:
    text = cell_text(cell).replace("|", "\\|")
    return f"[{text}]({cell.url})" if isinstance(cell, Link) else text
