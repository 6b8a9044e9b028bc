"""The frame of a self-contained page: header, contents, sections, styles and scripts."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from bcd.storage import write_text

_SECTION = re.compile(
    r"^<section id=\"(?P<id>[^\"]*)\">\n<h2>(?P<title>.*)</h2>.*\n(?:.*\n)*?</section>\n", re.M
)
_CONTENTS = re.compile(r"^<nav class=contents.*</nav>\n", re.M)
_END = "</main>\n"


def write_page(
    file: Path, title: str, sections: Sequence[str], top: str = "", subtitle: str = ""
) -> None:
    """Writes a page; the file is replaced atomically.

    The page has its styles and scripts in it and asks for nothing else.

    Args:
        file: The page.
        title: Of the page.
        sections: From `section`.
        top: HTML above the sections.
        subtitle: Below the title.
    """
    name = html.escape(title)
    below = f"<p class=subtitle>{html.escape(subtitle)}</p>" * bool(subtitle)
    body = "".join(_unique(sections))
    text = (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        '<meta name=color-scheme content="light dark">\n'
        f'<title>{name}</title>\n<link rel=icon href="data:,">\n<style>\n{_asset("page.css")}'
        '</style>\n<style id=dark media="screen and (prefers-color-scheme: dark)">\n'
        f"{_asset('dark.css')}</style>\n</head>\n<body>\n"
        "<a class=skip href=#content>Skip to the content</a>\n"
        f"<header class=bar><div><h1>{name}</h1>{below}</div>"
        "<button type=button id=theme hidden>Theme</button></header>\n"
        f"<div class=layout>\n{_contents(body)}<main id=content tabindex=-1>\n{top}\n{body}{_END}"
        f"</div>\n<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )
    write_text(file, text)


def section(title: str, parts: Sequence[str]) -> str:
    """A section of a page with a heading, and an id by which it can be linked to.

    Args:
        title: Of the section.
        parts: HTML.
    """
    name = html.escape(re.sub(r"\W+", "-", title.lower()).strip("-") or "section")
    body = "\n".join(parts)
    return (
        f'<section id="{name}">\n<h2>{html.escape(title)}</h2>'
        f'<a class=anchor href="#{name}" aria-label="Link to {html.escape(title)}">#</a>\n'
        f"{body}\n</section>\n"
    )


def replace_page_section(text: str, title: str, new: str, before: str) -> str:
    """Replaces the section of a page, or adds it, and updates the contents.

    Args:
        text: Of the page.
        title: Of the section to replace.
        new: From `section`.
        before: Title of the section that a new one comes before; at the end if there is none.
    """
    places = {html.unescape(found["title"]): found.span() for found in _SECTION.finditer(text)}
    start = places.get(before, (text.index(_END), 0))[0]
    place = places.get(title, (start, start))
    text = text[: place[0]] + new + text[place[1] :]
    return _CONTENTS.sub(lambda _: _contents(text), text, count=1)


def _contents(text: str) -> str:
    """The contents of a page: a link to each section."""
    links = "".join(
        f'<li><a href="#{found["id"]}">{found["title"]}</a></li>'
        for found in _SECTION.finditer(text)
    )
    return (
        "<nav class=contents aria-label=Contents><details open><summary>Contents</summary>"
        f"<ol>{links}</ol></details></nav>\n"
    )


def _unique(sections: Sequence[str]) -> list[str]:
    """The sections, with a number after an id that an earlier one has."""
    seen: dict[str, int] = {}
    found = []
    for text in sections:
        match = _SECTION.match(text)
        assert match is not None
        name = match["id"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            text = text.replace(f'id="{name}"', f'id="{name}-{seen[name]}"', 1)
            text = text.replace(f'href="#{name}"', f'href="#{name}-{seen[name]}"', 1)
        found.append(text)
    return found


def _asset(name: str) -> str:
    return (files("bcd.reporting") / "assets" / name).read_text(encoding="utf-8")
