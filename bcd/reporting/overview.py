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
from bcd.reporting.html import Cell, Link, gallery, inline, matrix, scrolled, thumbnail


@dataclass(frozen=True)
class Tile:
    """A headline figure: what it is, its value, and its interval and number of images."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Overview:
    """What a page says before its sections.

    Attributes:
        subtitle: Below the title of the page.
        status: PASS, WARN or FAIL.
        verdict: What the status is of, in a sentence.
        reasons: For the status.
        tiles: Headline figures.
        panels: Titles and HTML, side by side where there is room.
        facts: Names and values, such as the source of the data.
        files: Links to files that belong to the page.
    """

    subtitle: str
    status: str
    verdict: str
    reasons: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    panels: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, Cell]] = ()
    files: Sequence[Link] = ()

    def to_html(self) -> str:
        """The overview as HTML."""
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        listed = f"<ul>{reasons}</ul>" if reasons else ""
        parts = [
            f'<div class="verdict {self.status}">{inline(self.status)}<div>'
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
    note = f"<small>{html.escape(tile.note)}</small>" * bool(tile.note)
    return (
        f"<div class=tile><dt>{html.escape(tile.title)}</dt>"
        f"<dd><b>{html.escape(tile.value)}</b>{note}</dd></div>"
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
    kept = "" if rest is None else f"accuracy on the others {_percent(rest)}"
    return [*tiles, _share("Referred to a person", metrics, "referred", kept)]


def _share(title: str, metrics: Mapping[str, Any], name: str, count: str) -> Tile:
    interval = metrics.get(f"{name}_ci")
    notes = [count]
    if interval is not None:
        notes.insert(0, f"95 % interval {_percent(interval[0])} to {_percent(interval[1])}")
    return Tile(title, _percent(metrics[name]), "; ".join(filter(None, notes)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


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
        cards.append(thumbnail(pixels, name, 192, f"Close-up of {image.path}, labelled {name}"))
    return "What the classes look like", gallery(cards)


def close_up(image: NDArray[np.uint8], share: float = 0.5) -> NDArray[np.uint8]:
    """Cuts a square around the largest dark area in green light, where nuclei absorb most.

    Args:
        image: RGB, (height, width, 3).
        share: Side of the square, as a share of the shorter side.
    """
    import cv2

    side = max(int(share * min(image.shape[:2])), 1)
    dark = cv2.blur(255 - image[:, :, 1], (side // 2 + 1, side // 2 + 1))
    y, x = np.unravel_index(int(dark.argmax()), dark.shape)
    top, left = (
        int(np.clip(place - side // 2, 0, whole - side))
        for place, whole in zip((y, x), image.shape[:2], strict=True)
    )
    return image[top : top + side, left : left + side]
