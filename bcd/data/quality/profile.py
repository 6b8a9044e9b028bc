"""The profile of a catalog: how its images look, and which of them show the same field."""

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
    """What was seen of a catalog's images, in its order.

    Attributes:
        count: Number of images.
        overlaps: Pairs that show the same field, whole or in part.
        look: Gives the looks; they are read when asked for and not kept, as few need them.
    """

    count: int
    overlaps: tuple[Overlap, ...]
    look: Callable[[], ImageStatistics]

    @property
    def statistics(self) -> ImageStatistics:
        """How the images look."""
        return self.look()

    @property
    def components(self) -> NDArray[np.int64]:
        """Number of each image's set of images that hang together by overlaps, (n,)."""
        return components(self.count, self.overlaps)

    @property
    def duplicates(self) -> NDArray[np.int64]:
        """Number of each image's set of copies and near duplicates, (n,)."""
        return components(self.count, [o for o in self.overlaps if o.kind != "overlap"])

    def touching(self, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Which images are among some, are copies of one or overlap one directly, (n,).

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
        """Indices of each set of images that hang together by overlaps, single ones too."""
        return _members(self.components)


def _members(numbers: NDArray[np.int64]) -> list[list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers):
        members[int(number)].append(index)
    return list(members.values())


def profile_images(catalog: Catalog) -> DataProfile:
    """Profiles every image of a catalog; cached by content, so a second call reads two files.

    Raises:
        BcdError: An image has changed or gone since the catalog was made.
    """
    look = partial(image_statistics, catalog)
    return DataProfile(len(catalog.images), tuple(find_overlaps(catalog, look)), look)


_TWO_CLASSES = "shows a field that stands under another class too"
_SHOWN = "shows the field of"


def was_dropped(item: Rejected) -> bool:
    """Whether a file was left out by `drop_duplicates`, and is not unusable."""
    return item.reason.startswith((_TWO_CLASSES, _SHOWN))


def drop_duplicates(catalog: Catalog) -> Catalog:
    """Rejects each image that is a near duplicate of one before it, by path, that stays.

    Near duplicates each share `DUPLICATE_SHARE` of their area or more. Where one is like the next
    and that like another, as where a stage moved on step by step, what is left has no two near
    duplicates, but is more than one. Of a set that hangs together so and stands under two classes
    none stays: which class is right nobody can tell.

    Raises:
        BcdError: An image has changed or gone since the catalog was made.
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
    kept_of: dict[int, int] = {}  # copies, and which of them stays
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
