"""The data profile of a catalog: statistics of its images, and which show the same field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog, Rejected
from bcd.data.quality.image_statistics import ImageStatistics, image_statistics
from bcd.data.quality.overlaps import COPIES, Overlap, components, find_overlaps


@dataclass(frozen=True)
class DataProfile:
    """What is known of a catalog's images, in its order.

    Attributes:
        count: Number of images.
        overlaps: Pairs that show the same field, whole or in part.
        load: Returns the image statistics; they are read on demand and not kept in memory.
    """

    count: int
    overlaps: tuple[Overlap, ...]
    load: Callable[[], ImageStatistics]

    @property
    def statistics(self) -> ImageStatistics:
        """Statistics of the images."""
        return self.load()

    @property
    def components(self) -> NDArray[np.int64]:
        """Number of each image's connected component by overlaps, (n,)."""
        return components(self.count, self.overlaps)

    @property
    def duplicates(self) -> NDArray[np.int64]:
        """Number of each image's connected component by copies and near duplicates, (n,)."""
        return components(self.count, [o for o in self.overlaps if o.kind != "overlap"])

    def touching(self, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Which images are among the given ones, are copies of one or overlap one directly, (n,).

        Copies of an image overlap whatever it overlaps.
        """
        copies = components(self.count, [o for o in self.overlaps if o.kind in COPIES])
        near = np.zeros(self.count, np.bool_)
        near[copies[list(indices)]] = True
        ends = np.asarray([(o.first, o.second) for o in self.overlaps], np.int64).reshape(-1, 2)
        first, second = copies[ends].T
        touched = near.copy()
        touched[first[near[second]]] = True
        touched[second[near[first]]] = True
        return np.asarray(touched[copies])

    def sets(self) -> list[list[int]]:
        """Indices of each connected component by overlaps, including single images."""
        return _members(self.components)


def _members(numbers: NDArray[np.int64]) -> list[list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers):
        members[int(number)].append(index)
    return list(members.values())


def profile_images(catalog: Catalog) -> DataProfile:
    """Profiles every image of a catalog; the result is cached by the images' content.

    Raises:
        BcdError: An image has changed or is missing since the catalog was made.
    """
    load = partial(image_statistics, catalog)
    return DataProfile(len(catalog.images), tuple(find_overlaps(catalog, load)), load)


_TWO_CLASSES = "shows a field that is listed under another class too"
_SHOWN = "shows the field of"


def was_dropped(item: Rejected) -> bool:
    """Whether a file was left out by `drop_duplicates`, rather than being unusable."""
    return item.reason.startswith((_TWO_CLASSES, _SHOWN))


def drop_duplicates(catalog: Catalog) -> Catalog:
    """Rejects each image that is a near duplicate of an earlier image, by path, that is kept.

    Near duplicates share at least `DUPLICATE_SHARE` of their area. In a chain of near duplicates,
    as from a stage that moved step by step, several images are kept, no two of which are near
    duplicates. If the images of such a chain are listed under two classes, none is kept, because
    nobody can tell which class is correct.

    Raises:
        BcdError: An image has changed or is missing since the catalog was made.
    """
    reasons: dict[int, str] = {}
    profile = profile_images(catalog)
    for members in _members(profile.duplicates):
        if len({catalog.images[i].label for i in members}) > 1:
            reasons |= dict.fromkeys(members, _TWO_CLASSES)
    copies = components(profile.count, [o for o in profile.overlaps if o.kind in COPIES])
    near: dict[int, set[int]] = {int(number): {int(number)} for number in copies}
    for pair in profile.overlaps:
        if pair.kind == "near":
            a, b = int(copies[pair.first]), int(copies[pair.second])
            near[a].add(b)
            near[b].add(a)
    kept_of: dict[int, int] = {}  # number of a set of copies, and which of them is kept
    for i in range(profile.count):
        if i in reasons:
            continue
        alike = [kept_of[number] for number in near[int(copies[i])] if number in kept_of]
        if alike:
            reasons[i] = f"{_SHOWN} {catalog.images[min(alike)].path}"
        else:
            kept_of[int(copies[i])] = i
    dropped = [
        Rejected(catalog.images[i].path, catalog.classes[catalog.images[i].label], reason)
        for i, reason in sorted(reasons.items())
    ]
    kept = tuple(p for i, p in enumerate(catalog.images) if i not in reasons)
    return replace(catalog, images=kept, rejected=(*catalog.rejected, *dropped))
