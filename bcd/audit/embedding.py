"""A map of the images: similar ones, by the frozen network's features, lie near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.audit.labels import LabelCheck
from bcd.data.catalog import Catalog
from bcd.data.splits.slide_groups import Slides
from bcd.reporting.document import Block, Figure, Section
from bcd.reporting.figures import new_figure, shortened
from bcd.reporting.svg import save_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Floats = NDArray[np.floating[Any]]

MOST = 3000  # images in a map; t-SNE takes about 5 s of processor time for 2,500
FEWEST = 12  # images for which a map says anything
MARKERS = "os^DvPX"  # of the classes; colour and marker repeat together after 42 classes
_COLOURS = 6  # that follow the theme of the page
_LONGEST_NAME = 24  # letters in a legend

_COMPONENTS, _PERPLEXITY, _STEPS = 50, 30, 500
_BY_CLASS, _BY_SLIDE, _BY_ERROR = "map_class", "map_slide", "map_error"


@dataclass(frozen=True)
class ImageMap:
    """Places of images in two dimensions.

    Attributes:
        rows: Indices of the images in the catalog, ascending.
        points: (n, 2); distances between far points mean little.
    """

    rows: NDArray[np.int64]
    points: NDArray[np.float32]


def map_images(features: Floats, most: int = MOST) -> ImageMap | None:
    """Places images by t-SNE (van der Maaten and Hinton, J Mach Learn Res 2008;9:2579).

    The features are reduced to 50 principal components first. Results are the same in each run.

    Args:
        features: (n, channels).
        most: Number of images above which a random sample of so many is placed.

    Returns:
        The map; None with fewer than `FEWEST` images.
    """
    rows = np.arange(len(features))
    if len(rows) < FEWEST:
        return None
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    used = features[rows]
    count = min(_COMPONENTS, *used.shape)
    reduced = PCA(count, random_state=0).fit_transform(used)
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    placing = TSNE(2, perplexity=perplexity, max_iter=_STEPS, init="pca", random_state=0)
    return ImageMap(rows, np.asarray(placing.fit_transform(reduced), np.float32))


def map_section(
    folder: Path,
    catalog: Catalog,
    slides: Slides,
    features: Floats | None,
    check: LabelCheck | None,
    reason: str,
) -> Section:
    """Maps of the images by class, estimated slide and error, written to `folder/figures`.

    Args:
        folder: Of the audit.
        catalog: The images.
        slides: Their estimated slides.
        features: Of the images, (n, channels); None if there are none.
        check: Has the cross-validated predictions; None if there are none.
        reason: Why there are no features, as a sentence.
    """
    title, found = "Map of the images", None if features is None else map_images(features)
    if features is None:
        return Section(title, [reason])
    if found is None:
        return Section(title, [f"None: it needs {FEWEST} images or more."])
    labels = np.asarray(catalog.labels)[found.rows]
    names = [shortened(name, _LONGEST_NAME) for name in catalog.classes]
    groups = np.unique(slides.groups, return_inverse=True)[1][found.rows]
    figures = {
        _BY_CLASS: draw_classes(found.points, labels, names),
        _BY_SLIDE: draw_slides(found.points, labels, groups, names),
    }
    if check is not None:
        wrong = check.predicted[found.rows] != labels
        figures[_BY_ERROR] = draw_errors(found.points, labels, wrong, names)
    for name, figure in figures.items():
        save_svg(figure, folder / "figures" / f"{name}.svg")
    sample = "" if len(found.rows) == len(features) else f"{len(found.rows)} images, at random. "
    text = (
        f"{sample}t-SNE of the frozen network's features: images near each other look alike to the "
        "network, and distances between clusters mean little. If clusters follow slides rather "
        "than classes, a random split overestimates the accuracy on new slides. Errors in the "
        "middle of another class are labels to check; errors between classes are hard images."
    )
    blocks: list[Block] = [text, Figure(_BY_CLASS, "map of the images by class")]
    blocks.append(Figure(_BY_SLIDE, "map of the images by estimated slide"))
    if check is not None:
        blocks.append(Figure(_BY_ERROR, "map of the images with errors of a probe"))
    return Section(title, blocks)


def draw_classes(
    points: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str]
) -> Drawing:
    """Draws a map in which each class has a colour and a marker.

    Args:
        points: (n, 2).
        labels: (n,).
        names: Of the classes.
    """
    figure, axes = _new_map("by class")
    for k, name in enumerate(names):
        own = points[labels == k]
        _scatter(axes, own, f"C{k % _COLOURS}", _marker(k), f"{name} ({len(own)})")
    _add_legend(figure, axes)
    return figure


def draw_slides(
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    names: Sequence[str],
) -> Drawing:
    """Draws a map in which each estimated slide has a colour; colours repeat after twenty.

    Args:
        points: (n, 2).
        labels: (n,), shown by the marker.
        groups: Number of each image's slide, (n,).
        names: Of the classes.
    """
    from matplotlib import colormaps

    colours = colormaps["tab20"](groups * 7 % 20)  # slides of a class get very different ones
    figure, axes = _new_map("by estimated slide: one colour each, colours repeat")
    for k, name in enumerate(names):
        own = labels == k
        text = f"{name} ({len(np.unique(groups[own]))} slides)"
        _scatter(axes, points[own], colours[own], _marker(k), text)
    _add_legend(figure, axes, colour="0.4")
    return figure


def draw_errors(
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    names: Sequence[str],
) -> Drawing:
    """Draws a map in which images that a probe misclassifies stand out.

    Args:
        points: (n, 2).
        labels: (n,), shown by the marker.
        wrong: Which images are misclassified, (n,).
        names: Of the classes.
    """
    figure, axes = _new_map("errors of a cross-validated logistic regression")
    _scatter(axes, points[~wrong], "0.75", ".", f"correct ({int((~wrong).sum())})")
    for k, name in enumerate(names):
        own = points[wrong & (labels == k)]
        text = f"{name}, wrong ({len(own)})"
        _scatter(axes, own, f"C{k % _COLOURS}", _marker(k), text)
    _add_legend(figure, axes)
    return figure


def _new_map(title: str) -> tuple[Drawing, Axes]:
    figure = new_figure(8.5, 5.5)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", "datalim")
    return figure, axes


def _scatter(axes: Axes, points: Any, colour: Any, marker: str, label: str) -> None:
    drawn = axes.scatter(
        points[:, 0], points[:, 1], s=14, c=colour, marker=marker, linewidths=0, alpha=0.8
    )
    drawn.set_label(label)


def _marker(k: int) -> str:
    return MARKERS[k % len(MARKERS)]


def _add_legend(figure: Drawing, axes: Axes, colour: str | None = None) -> None:
    """Adds a legend beside the map; its markers have one colour if one is given."""
    drawn = axes.collections
    legend = axes.legend(
        drawn, [str(one.get_label()) for one in drawn], loc="center left",
        bbox_to_anchor=(1.01, 0.5), markerscale=2, frameon=False,
    )  # fmt: skip
    for text in legend.get_texts():  # a dollar sign in a name is no formula
        text.set_parse_math(False)
    for handle in legend.legend_handles if colour else ():
        if handle is not None:
            handle.set_facecolor(colour)  # type: ignore[attr-defined]
