"""Groups of the images that a checkpoint is evaluated on, and what follows where there are none."""

from __future__ import annotations

from collections.abc import Sequence

from bcd.data.catalog import Catalog
from bcd.data.quality.profile import profile_images
from bcd.data.splits.grouping import hang_together
from bcd.data.splits.split import name_clusters
from bcd.inference.checkpoint import Card


def find_groups(catalog: Catalog, card: Card, indices: Sequence[int]) -> list[str]:
    """Group of each image, as recorded by the run.

    Other images have the catalog's group, joined where images of this catalog overlap.
    """
    names = _named(catalog, card)
    recorded = card.sha256s()
    if any(catalog.images[i].sha256 not in recorded for i in indices):
        together, _ = hang_together(names, catalog.labels, profile_images(catalog))
        names = list(name_clusters(together, catalog, names))
    return [names[i] for i in indices]


def count_ungrouped(catalog: Catalog, card: Card, indices: Sequence[int]) -> int:
    """Counts the images for which neither the run nor the catalog has a group."""
    names = _named(catalog, card)
    return sum(not names[i] for i in indices)


def _named(catalog: Catalog, card: Card) -> list[str]:
    return [card.groups.get(image.sha256, image.group) for image in catalog.images]


def ungrouped_note(count: int, n: int) -> str:
    """States what intervals assume of images without a group; empty if all have one.

    Args:
        count: Number of images without a group, from `count_ungrouped`.
        n: Number of images.
    """
    if not count:
        return ""
    how = "slide or patient; a CSV's column group, or data.group_pattern"
    if count == n:
        return (
            f"no image has a group ({how}): intervals assume that images that do not overlap are "
            "independent, and may be too narrow"
        )
    return (
        f"{count} of {n} images have no group ({how}): those that do not overlap others are "
        "counted as independent, and intervals may be too narrow"
    )
