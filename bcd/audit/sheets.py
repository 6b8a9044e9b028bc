"""The images as they are: a contact sheet of each class, and their sizes and focus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.quality.profile import DataProfile
from bcd.data.reading import read_image
from bcd.data.splits.slide_groups import Slides
from bcd.reporting.document import Block, Figure, Section
from bcd.reporting.figures import new_figure
from bcd.reporting.gallery import Card, Gallery, Picture
from bcd.reporting.svg import save_svg
from bcd.storage import written_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_CLASS, _IN_ALL = 24, 120  # images of a class and of all classes, at most
_FIGURE = "size_and_focus"
_BINS = 40
_STYLES = ("-", "--", ":", "-.")  # of the classes, so that colour is not needed


def sheets_section(catalog: Catalog, slides: Slides) -> Section:
    """A contact sheet of each class.

    Args:
        catalog: The images.
        slides: Their estimated slides.
    """
    cards, classes = [], len(catalog.classes)
    for label, name in enumerate(catalog.classes):
        rows = spread(catalog, slides, label, min(PER_CLASS, max(1, _IN_ALL // classes)))
        pictures = [_picture(catalog, slides, row) for row in rows]
        count = catalog.counts()[name]
        text = f"{name}: {len(rows)} of {count} images"
        cards.append(Card(pictures, [text]))
    return Section(
        "Images of each class",
        ["Look for marks, writing, borders and focus that differ between classes.", Gallery(cards)],
    )


def spread(catalog: Catalog, slides: Slides, label: int, most: int = PER_CLASS) -> list[int]:
    """Images of a class, evenly spaced over its estimated slides in their order.

    Args:
        catalog: The images.
        slides: Their estimated slides.
        label: The class.
        most: Number of images.

    Returns:
        Indices, ordered by slide, then as in the catalog.
    """
    own = [row for row, k in enumerate(catalog.labels) if k == label]
    own.sort(key=lambda row: (slides.groups[row], row))
    return [own[i] for i in np.linspace(0, len(own) - 1, min(most, len(own))).astype(int)]


def _picture(catalog: Catalog, slides: Slides, row: int) -> Picture:
    path = catalog.images[row].path
    caption = f"{written_path(path)}, estimated slide {slides.groups[row]}"
    return Picture(read_image(catalog.root / path), caption)


def size_section(folder: Path, catalog: Catalog, profile: DataProfile) -> Section:
    """Distributions of size and focus by class, written to `folder/figures`.

    Args:
        folder: Of the audit.
        catalog: The images.
        profile: Of the same.
    """
    sides = np.asarray([(p.width, p.height) for p in catalog.images], np.float64)
    sharpness = np.asarray(profile.statistics.sharpness, np.float64)
    panels = {"shorter side, pixels": sides.min(axis=1), "sharpness": sharpness}
    sizes = np.unique(sides, axis=0)
    text = f"Sizes from {_size(sides.min(axis=0))} to {_size(sides.max(axis=0))} pixels."
    if len(sizes) == 1:
        text = f"All images have {_size(sizes[0])} pixels."
        panels.pop("shorter side, pixels")
    text += (
        " Sharpness is the standard deviation of the Laplacian of the grey image: low values are "
        "out of focus. A class that differs in it may be recognized by it."
    )
    labels = np.asarray(catalog.labels)
    figure = new_figure(4.5 * len(panels) + 1.5, 3.4)
    for number, (name, values) in enumerate(panels.items(), start=1):
        axes: Axes = figure.add_subplot(1, len(panels), number)
        _draw_histograms(axes, values, labels, catalog.classes, name)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    for entry in legend.get_texts():
        entry.set_parse_math(False)  # a dollar sign in a name is no formula
    save_svg(figure, folder / "figures" / f"{_FIGURE}.svg")
    blocks: list[Block] = [text, Figure(_FIGURE, "size and focus by class")]
    return Section("Size and focus", blocks)


def _size(side: NDArray[np.float64]) -> str:
    return f"{side[0]:.0f} x {side[1]:.0f}"


def _draw_histograms(
    axes: Axes,
    values: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    name: str,
) -> None:
    """Draws the distribution of each class as shares of its images."""
    edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), _BINS + 1)
    for k, label in enumerate(classes):
        own = values[labels == k]
        shares = np.histogram(own, edges)[0] / max(len(own), 1)
        style = _STYLES[k % len(_STYLES)]
        axes.stairs(shares, edges, label=label, linestyle=style, linewidth=1.5)
    axes.set(xlabel=name, ylabel="share of the class")
    axes.grid(alpha=0.3)
