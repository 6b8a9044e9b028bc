"""The first screen of a page: verdict, headline figures, confusion matrix and sample images."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.reading import read_image
from bcd.reporting.gallery import Card, Gallery, Picture, gallery_html
from bcd.reporting.html import Cell, Link, inline, matrix, scrolled
from bcd.storage import written_path


@dataclass(frozen=True)
class Tile:
    """A headline figure: what it is, its value, and lines such as its interval."""

    title: str
    value: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Overview:
    """What a page says before its sections.

    Attributes:
        subtitle: Below the title of the page.
        status: PASS, WARN or FAIL; empty if nothing was judged.
        verdict: The main result, in a sentence.
        reasons: For the status, or further results.
        tiles: Headline figures.
        panels: Titles and HTML, side by side where there is room.
        facts: Names and values, such as the source of the data.
        files: Links to files that belong to the page.
    """

    subtitle: str
    status: str = ""
    verdict: str = ""
    reasons: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    panels: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, Cell]] = ()
    files: Sequence[Link] = ()

    def to_html(self) -> str:
        """The overview as HTML."""
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        badge = inline(self.status) if self.status else ""
        listed = f"<ul>{reasons}</ul>" if reasons else ""
        parts = [
            f'<div class="verdict {self.status}">{badge}<div>'
            f"<p>{html.escape(self.verdict)}</p>{listed}</div></div>"
        ]
        if self.tiles:
            parts.append(f"<dl class=tiles>{''.join(map(_tile, self.tiles))}</dl>")
        if self.panels:
            panels = "".join(
                f"<div class=panel><p class=name>{html.escape(title)}</p>{content}</div>"
                for title, content in self.panels
            )
            parts.append(f"<div class=panels>{panels}</div>")
        facts = [(name, inline(cell)) for name, cell in self.facts]
        if self.files:
            links = "".join(f"<li>{inline(link)}</li>" for link in self.files)
            facts.append(("files", f"<ul class=files>{links}</ul>"))
        rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{cell}</dd>" for name, cell in facts)
        parts.append(f"<dl class=facts>{rows}</dl>" * bool(rows))
        body = "\n".join(filter(None, parts))
        return f"<section class=overview aria-label=Overview>\n{body}\n</section>"


def _tile(tile: Tile) -> str:
    notes = "".join(f"<small>{html.escape(note)}</small>" for note in tile.notes)
    return (
        f"<div class=tile><dt>{html.escape(tile.title)}</dt>"
        f"<dd><b>{html.escape(tile.value)}</b>{notes}</dd></div>"
    )


def today() -> str:
    """The date of a page, as in `run.json` in UTC."""
    return datetime.now(timezone.utc).date().isoformat()


def headline_tiles(metrics: Mapping[str, Any], where: str) -> list[Tile]:
    """Accuracy, unsafe answers and referred share in percent, with intervals.

    Args:
        metrics: Of a set of images.
        where: Names the set, as in `on test`.
    """
    tiles = [_share(f"Accuracy {where}", metrics, "accuracy", f"{metrics['n']} images")]
    for true, called in (("malignant", "benign"), ("benign", "malignant")):
        if metrics.get(f"unsafe_{true}") is not None:
            counted = f"{metrics[f'n_unsafe_{true}']} of {metrics[f'n_{true}']}"
            title = f"Unsafe: {true} called {called}"
            tiles.append(_share(title, metrics, f"unsafe_{true}", counted))
    rest = metrics.get("accuracy_decided")
    kept = "" if rest is None else f"accuracy on the others: {percent(rest)}"
    return [*tiles, _share("Referred to a person", metrics, "referred", kept)]


def _share(title: str, metrics: Mapping[str, Any], name: str, count: str) -> Tile:
    interval = metrics.get(f"{name}_ci")
    notes = ["" if interval is None else percent_interval(interval), count]
    return Tile(title, percent(metrics[name]), list(filter(None, notes)))


def percent(share: float) -> str:
    """A share in percent."""
    return f"{share:.1%}"


def percent_interval(interval: Sequence[float]) -> str:
    """An interval of a share in percent."""
    low, high = interval
    # Word joiners keep narrow tiles from breaking the interval.
    return f"95\u00a0% interval {100 * low:.1f}\u2060\u2013\u2060{100 * high:.1f}%"


def matrix_panel(metrics: Mapping[str, Any], classes: Sequence[str]) -> tuple[str, str]:
    """Title and table of the confusion matrix."""
    table = scrolled(matrix(metrics["confusion"], classes), "Confusion matrix")
    return f"Confusion matrix, {metrics['n']} images", table


def samples_panel(catalog: Catalog, indices: Iterable[int]) -> tuple[str, str]:
    """Title and gallery of one image of each class, each the close-up of a nucleus.

    Args:
        catalog: Holds the images.
        indices: Of the images to choose from; the first of each class is shown.
    """
    first: dict[int, int] = {}
    for index in indices:
        first.setdefault(catalog.images[index].label, index)
    cards = []
    for label in sorted(first):
        image = catalog.images[first[label]]
        pixels = close_up(read_image(catalog.root / Path(image.path)))
        name = catalog.classes[label]
        picture = Picture(pixels, f"Close-up of {written_path(image.path)}, labelled {name}")
        cards.append(Card([picture], [name]))
    return "A sample of each class", gallery_html(Gallery(cards))


def close_up(image: NDArray[np.uint8], share: float = 0.5) -> NDArray[np.uint8]:
    """Cuts a square around the most purple area: nuclei absorb more of green than of other light.

    Args:
        image: RGB, (height, width, 3).
        share: Side of the square, as a share of the shorter side.
    """
    import cv2

    side = max(int(share * min(image.shape[:2])), 1)
    red, green, blue = cv2.split(image)
    purple = cv2.blur(cv2.subtract(cv2.max(red, blue), green), (side // 3 + 1, side // 3 + 1))
    y, x = np.unravel_index(int(purple.argmax()), purple.shape)
    top, left = (
        int(np.clip(place - side // 2, 0, whole - side))
        for place, whole in zip((y, x), image.shape[:2], strict=True)
    )
    return image[top : top + side, left : left + side]
