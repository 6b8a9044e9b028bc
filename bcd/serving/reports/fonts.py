"""Fonts of a PDF: DejaVu, which matplotlib brings along."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

PLAIN, BOLD = "DejaVuSans", "DejaVuSans-Bold"


@cache
def register_fonts() -> frozenset[int]:
    """Makes the fonts known to reportlab.

    Returns:
        The characters that both have and that can be printed.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    have = []
    for name in (PLAIN, BOLD):
        font = TTFont(name, str(folder / f"{name}.ttf"))
        pdfmetrics.registerFont(font)
        have.append(frozenset(font.face.charToGlyph))
    pdfmetrics.registerFontFamily(PLAIN, PLAIN, BOLD, PLAIN, BOLD)
    # reportlab writes wrong text, which is copied and searched for, for characters beyond U+FFFF,
    # and prints scripts written from right to left in the wrong order, without joining letters.
    return frozenset(
        c for c in have[0] & have[1]
        if c <= 0xFFFF and unicodedata.bidirectional(chr(c)) not in ("R", "AL", "AN")
    )  # fmt: skip


def printable(text: str) -> str:
    """The text, unprintable characters as `[U+XXXX]`, and lines joined by a slash."""
    have = register_fonts()
    text = " / ".join(line for line in text.split("\n") if line.strip())
    return "".join(c if ord(c) in have else f"[U+{ord(c):04X}]" for c in text.replace("\t", " "))


def markup(text: str) -> str:
    """`printable` text that a paragraph of reportlab does not take for markup."""
    return escape(printable(text))
