"""The survey of a catalog: how its pictures look, and which of them show the same field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog, Rejected
from bcd.data.looks import Looks, look_at
from bcd.data.twins import Twin, clusters, find_twins


@dataclass(frozen=True)
class Survey:
    """What was seen of a catalog's pictures, in its order.

    Attributes:
        count: Number of pictures.
        twins: Pairs that show the same field.
        look: Gives the looks; they are read when asked for and not kept, as few need them.
    """

    count: int
    twins: tuple[Twin, ...]
    look: Callable[[], Looks]

    @property
    def looks(self) -> Looks:
        """How the pictures look."""
        return self.look()

    @property
    def clusters(self) -> NDArray[np.int64]:
        """Number of each picture's set of twins; one without a twin has a number of its own."""
        return clusters(self.count, self.twins)

    def sets(self) -> list[list[int]]:
        """Indices of the pictures of each set of twins; single pictures are sets of their own."""
        members: dict[int, list[int]] = defaultdict(list)
        for index, cluster in enumerate(self.clusters):
            members[int(cluster)].append(index)
        return list(members.values())


def survey_pictures(catalog: Catalog) -> Survey:
    """Looks at every picture once and remembers it; a second survey reads two files.

    Raises:
        BcdError: A picture has changed or gone since the catalog was made.
    """
    look = partial(look_at, catalog)
    return Survey(len(catalog.pictures), tuple(find_twins(catalog, look)), look)


def drop_duplicates(catalog: Catalog) -> Catalog:
    """Leaves one picture of each set of twins, the first by path; the others are rejected.

    Of twins that stand under two classes none stays: which class is right nobody can tell.

    Raises:
        BcdError: A picture has changed or gone since the catalog was made.
    """
    reasons: dict[int, str] = {}
    for first, *others in survey_pictures(catalog).sets():
        if len({catalog.pictures[i].label for i in (first, *others)}) > 1:
            others = [first, *others]
            reasons |= dict.fromkeys(others, "shows a field that stands under another class too")
        else:
            reasons |= dict.fromkeys(others, f"shows the field of {catalog.pictures[first].path}")
    dropped = [
        Rejected(catalog.pictures[i].path, catalog.classes[catalog.pictures[i].label], reason)
        for i, reason in sorted(reasons.items())
    ]
    kept = tuple(p for i, p in enumerate(catalog.pictures) if i not in reasons)
    return replace(catalog, pictures=kept, rejected=(*catalog.rejected, *dropped))
