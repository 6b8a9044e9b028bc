"""Documents of titled sections with paragraphs, tables and figures, as HTML or Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    write_page(file, title, [part for one in sections for part in _html_parts(one, file.parent)])


def write_markdown(
    file: Path, title: str, sections: Iterable[Section], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes Markdown, without figures.

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
        new, end = "\n".join(_markdown_lines(section)) + "\n\n", len(text)
        starts = [f"## {title}\n" for title in (section.title, before)]
        following = "\n## "
    else:
        new, end = "\n".join(_html_parts(section, file.parent)) + "\n", text.index("\n</body>") + 1
        starts = [f"{heading(title)}\n" for title in (section.title, before)]
        following = "\n<h2>"
    place, later = (text.find(f"\n{start}") + 1 for start in starts)
    if place:
        after = text.find(following, place) + 1 or end
        text = f"{text[:place]}{new}{text[after:]}"
    else:
        place = later or end
        text = f"{text[:place]}{new}{text[place:]}"
    write_text(file, text.rstrip("\n") + "\n")


def _html_parts(section: Section, folder: Path) -> list[str]:
    parts = [heading(section.title)]
    for block in section.blocks:
        if isinstance(block, Table):
            parts.append(table(block.header, block.rows, block.numeric))
        elif isinstance(block, Figure):
            image = folder / "figures" / f"{block.name}.png"
            if image.is_file():
                parts.append(embed_png(image, block.title))
        else:
            parts.append(paragraph(block))
    return parts


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
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
