"""The survey of a catalog: how its pictures look, and which of them show the same field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog, Rejected
from bcd.data.quality.image_statistics import Looks, look_at
from bcd.data.quality.overlaps import COPIES, Overlap, components, find_overlaps


@dataclass(frozen=True)
class Survey:
    """What was seen of a catalog's pictures, in its order.

    Attributes:
        count: Number of pictures.
        overlaps: Pairs that show the same field, whole or in part.
        look: Gives the looks; they are read when asked for and not kept, as few need them.
    """

    count: int
    overlaps: tuple[Overlap, ...]
    look: Callable[[], Looks]

    @property
    def looks(self) -> Looks:
        """How the pictures look."""
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


def survey_pictures(catalog: Catalog) -> Survey:
    """Looks at every picture and remembers it; a second survey reads two files.

    Raises:
        BcdError: A picture has changed or gone since the catalog was made.
    """
    look = partial(look_at, catalog)
    return Survey(len(catalog.pictures), tuple(find_overlaps(catalog, look)), look)


_TWO_CLASSES = "shows a field that stands under another class too"
_SHOWN = "shows the field of"


def was_dropped(item: Rejected) -> bool:
    """Whether a file was left out by `drop_duplicates`, and is not unusable."""
    return item.reason.startswith((_TWO_CLASSES, _SHOWN))


def drop_duplicates(catalog: Catalog) -> Catalog:
    """Rejects each picture that is a near duplicate of one before it, by path, that stays.

    Near duplicates each share `DUPLICATE_SHARE` of their area or more. Where one is like the next
    and that like another, as where a stage moved on step by step, what is left has no two near
    duplicates, but is more than one. Of a set that hangs together so and stands under two classes
    none stays: which class is right nobody can tell.

    Raises:
        BcdError: A picture has changed or gone since the catalog was made.
    """
    reasons: dict[int, str] = {}
    survey = survey_pictures(catalog)
    for members in _members(survey.duplicates):
        if len({catalog.pictures[i].label for i in members}) > 1:
            reasons |= dict.fromkeys(members, _TWO_CLASSES)
    copies = components(survey.count, [o for o in survey.overlaps if o.kind in COPIES])
    near: dict[int, set[int]] = {int(number): {int(number)} for number in copies}
    for pair in survey.overlaps:
        if pair.kind == "near":
            a, b = int(copies[pair.first]), int(copies[pair.second])
            near[a].add(b)
            near[b].add(a)
    kept_of: dict[int, int] = {}  # copies, and which of them stays
    for i in range(survey.count):
        if i in reasons:
            continue
        alike = [kept_of[number] for number in near[int(copies[i])] if number in kept_of]
        if alike:
            reasons[i] = f"{_SHOWN} {catalog.pictures[min(alike)].path}"
        else:
            kept_of[int(copies[i])] = i
    dropped = [
        Rejected(catalog.pictures[i].path, catalog.classes[catalog.pictures[i].label], reason)
        for i, reason in sorted(reasons.items())
    ]
    kept = tuple(p for i, p in enumerate(catalog.pictures) if i not in reasons)
    return replace(catalog, pictures=kept, rejected=(*catalog.rejected, *dropped))
