"""Charts as SVG that take their colours from the page which contains them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcd.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Charts are drawn in matplotlib's default colours, each of which stands for a property of the page;
# the colour after it is used without one. The series are Okabe and Ito's (2008), the light ones
# darkened for a contrast of 3 with white.
_THEME = {
    "#000000": "var(--ink, #1f2328)",
    "#808080": "var(--muted, #59636e)",
    "#b0b0b0": "var(--grid, #d0d7de)",
    "#ffffff": "var(--paper, #ffffff)",
    "#1f77b4": "var(--c0, #0072b2)",
    "#ff7f0e": "var(--c1, #d55e00)",
    "#2ca02c": "var(--c2, #008a65)",
    "#d62728": "var(--c3, #b5578f)",
    "#9467bd": "var(--c4, #a87400)",
    "#8c564b": "var(--c5, #2f7fb5)",
}
_MARKERS = "os^Dvp"
_DASHES = ("-", "--", "-.", (0, (1, 1.5)))

_ROOT = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="{box}" '
    'role="img" style="'
    "fill: var(--ink, #1f2328); font-family: system-ui, sans-serif; stroke-linejoin: round"
    '">'
)


def series(number: int) -> dict[str, Any]:
    """Colour, marker and dash of a series; not the colour alone tells two apart.

    Args:
        number: Of the series, from 0.
    """
    # Their periods differ, so that no two of the first twenty-four series look the same.
    dash = _DASHES[(number + number // len(_MARKERS)) % len(_DASHES)]
    kind = number % len(_MARKERS)
    return {"color": f"C{kind}", "marker": _MARKERS[kind], "linestyle": dash}


def svg_text(figure: Figure, name: str) -> str:
    """A figure as an SVG element, the same for the same figure.

    Text stays text. The background is transparent, colours are CSS properties (`--ink`, `--muted`,
    `--grid`, `--paper`, `--c0` to `--c5`) with fallbacks for a white page, and there is no style
    sheet, which would apply to the whole page.

    Args:
        figure: Drawn in matplotlib's default colours.
        name: Of the figure; figures of one page need different ones, which keep their ids apart.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _themed(stream.getvalue())


def save_svg(figure: Figure, file: Path) -> None:
    """Writes a figure as SVG (see `svg_text`); the file is replaced atomically."""
    write_text(file, svg_text(figure, file.stem))


def _themed(text: str) -> str:
    size = re.search(r'<svg[^>]* width="(\S+)" height="(\S+)" viewBox="([^"]+)"', text)
    assert size is not None
    root = _ROOT.format(width=size[1], height=size[2], box=size[3])
    body = text[text.index("</metadata>") + len("</metadata>") :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    names = {name for pair in used for name in pair}
    body = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in names else "", body)
    body = re.sub(r" font-family: [^;\"]*(;|(?=\"))", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r"\n\s*", "\n", body).replace("xlink:href", "href")
    return root + re.sub(
        r"(fill|stroke): (#[0-9a-f]{6})", lambda m: f"{m[1]}: {_THEME.get(m[2], m[2])}", body
    )
