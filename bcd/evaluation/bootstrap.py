"""The cluster bootstrap: how much figures vary when whole groups are drawn with replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.splits.linking import named_apart

Groups = Sequence[Any] | NDArray[Any]
Floats = NDArray[np.float64]

DRAWS = 2000  # the standard error then strays by some 1.6 % from that of endless draws
_AT_ONCE = 2**19  # numbers in memory at a time, a few times over: 4 MB


@dataclass(frozen=True)
class Clusters:
    """Images put together by what is drawn as one.

    Attributes:
        times: (u,), how many clusters of the kind there are: clusters with the same counts can
            stand for each other and are stored once, so that independent images are few kinds.
        codes: (u, c), images of each code in a cluster of the kind.
    """

    times: Floats
    codes: Floats

    @property
    def count(self) -> float:
        """Number of clusters."""
        return float(self.times.sum())

    def effective(self, sizes: Floats) -> Floats:
        """Number of clusters (...) of equal size that would be worth these sizes (u, ...)."""
        squared = np.tensordot(self.times, sizes**2, axes=1)
        total = np.tensordot(self.times, sizes, axes=1) ** 2
        return np.divide(total, squared, out=np.zeros_like(total), where=squared > 0)

    def holders(self, sizes: Floats) -> Floats:
        """Number of clusters (...) that add anything to sizes (u, ...)."""
        held: Floats = np.tensordot(self.times, (sizes > 0).astype(np.float64), axes=1)
        return held

    def draw(self, draws: int, seed: int, width: int = 1) -> Iterator[Floats]:
        """Yields weights (some, u), `draws` rows in all: how often each kind was drawn.

        A row draws as many clusters as there are, each with the same chance.

        Args:
            draws: How many.
            seed: Of the draws.
            width: Numbers that will be computed of each draw; decides how many come at a time.
        """
        rng = np.random.default_rng(seed)
        kinds, count = len(self.times), int(self.count)
        rows = max(_AT_ONCE // max(kinds, width), 1)
        for start in range(0, draws, rows):
            m = min(rows, draws - start)
            if kinds == count:  # ten times as fast where no two are alike
                drawn = rng.integers(kinds, size=(m, kinds)) + kinds * np.arange(m)[:, None]
                weights = np.bincount(drawn.ravel(), minlength=m * kinds).reshape(m, kinds)
            else:
                weights = rng.multinomial(count, self.times / count, size=m)
            yield weights.astype(np.float64)


def group_numbers(groups: Groups | None, n: int) -> NDArray[np.int64]:
    """Numbers (n,), without gaps, of the groups (n,); each image its own where they are None.

    Raises:
        ValueError: There is no image, or not a group for each.
    """
    if n == 0 or (groups is not None and len(groups) != n):
        raise ValueError("intervals want images, and a group for each or none at all")
    if groups is None:
        return np.arange(n)
    numbers: NDArray[np.int64] = np.unique(np.asarray(groups), return_inverse=True)[1]
    return numbers


def named_groups(names: Sequence[str]) -> list[str] | None:
    """Groups of images, of which those without a name are their own; None if none has one."""
    return named_apart(names) if any(names) else None


def joined_groups(namings: Sequence[Sequence[str]]) -> list[int] | None:
    """Joins images that any of several namings puts together, and what these have in common.

    Args:
        namings: Of the same n images each; an empty name says nothing.

    Returns:
        Number of each image's connected component, (n,); None where no two are joined.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(namings[0])
    named = [(i, (k, name)) for k, names in enumerate(namings) for i, name in enumerate(names)]
    known = [(i, key) for i, key in named if key[1]]
    nodes = {key: n + place for place, key in enumerate(dict.fromkeys(key for _, key in known))}
    size = n + len(nodes)
    ends = np.array([(i, nodes[key]) for i, key in known], dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(known)), (ends[0], ends[1])), shape=(size, size))
    found = connected_components(links, directed=False)[1][:n].tolist()
    return None if len(set(found)) == n else found


def effective_groups(groups: Groups | None) -> float | None:
    """How many groups of equal size would be worth these; None where there are none."""
    if groups is None:
        return None
    sizes = np.unique(groups, return_counts=True)[1]
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def cluster(codes: NDArray[np.int64], c: int, groups: Groups | None) -> Clusters:
    """Puts images together by group, or each for itself.

    Args:
        codes: (n,), from 0 to c - 1, all that is known of each image.
        c: Number of codes.
        groups: (n,), names of any kind; None where images are independent.

    Raises:
        ValueError: There is no image, or not a group for each.
    """
    places = group_numbers(groups, len(codes))
    if groups is None:
        found, times = np.unique(codes, return_counts=True)
        # In the order of the rows below, so that groups of one image give the same draws.
        return Clusters(times[::-1].astype(np.float64), np.eye(c)[found[::-1]])
    g = int(places.max()) + 1
    counts = np.bincount(places * c + codes, minlength=g * c).reshape(g, c)
    rows, times = np.unique(counts, axis=0, return_counts=True)
    return Clusters(times.astype(np.float64), rows.astype(np.float64))


def bootstrap(
    clusters: Clusters,
    figures: Callable[[Floats], Mapping[str, Floats]],
    sizes: Mapping[str, Floats],
    draws: int,
    seed: int,
    width: int = 1,
) -> dict[str, Floats]:
    """Computes figures of draws.

    A draw that has none of the images a figure is about says nothing about it; counted as 0, as
    figures without a value are elsewhere, it would make groups of one class look far apart.

    Args:
        clusters: What is drawn.
        figures: Maps weights (m, u) of the kinds to figures (m, ...) by name.
        sizes: What each kind adds to the figures' denominators, by name: (u, ...) as the figure,
            or with an axis more where it is a mean over that many classes.
        draws: How many.
        seed: Of the draws.
        width: Numbers that `figures` computes of each draw; keeps memory small.

    Returns:
        Figures (draws, ...) by name, NaN where a draw says nothing.
    """
    parts: dict[str, list[Floats]] = {}
    for weights in clusters.draw(draws, seed, width):
        for name, drawn in figures(weights).items():
            size = sizes[name]
            there: NDArray[np.bool_] = np.tensordot(weights, size, axes=1) > 0
            there |= ~size.any(axis=0)
            if there.ndim > drawn.ndim:
                there = np.asarray(there.all(axis=-1))
            parts.setdefault(name, []).append(np.where(there, drawn, np.nan))
    return {name: np.concatenate(part) for name, part in parts.items()}


def standard_error(clusters: Clusters, drawn: Floats, sizes: Floats) -> Floats:
    """Standard error (...) of figures.

    Draws from c clusters vary by the factor (c - 1) / c too little, which matters for few; c counts
    the clusters that have a say, for a mean over classes those of the class that has the fewest.

    Args:
        clusters: What was drawn.
        drawn: (draws, ...), what `bootstrap` gave.
        sizes: As there.

    Returns:
        NaN where only one cluster has a say, or no draw says anything.
    """
    held = clusters.holders(sizes)
    if sizes.ndim > drawn.ndim:
        held = np.where(held > 0, held, np.inf).min(axis=-1)
    known = ~np.isnan(drawn)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, drawn, 0).sum(axis=0) / count
    variance = np.where(known, (drawn - mean) ** 2, 0).sum(axis=0) / count
    vague = (held < 2) | ~known.any(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error: Floats = np.where(vague, np.nan, np.sqrt(variance * held / (held - 1)))
    return error


def freedoms(
    clusters: Clusters, figures: Callable[[Floats], Mapping[str, Floats]], width: int = 1
) -> dict[str, Floats]:
    """Degrees of freedom (...) of the figures' variances, by name, from how far each cluster pulls.

    Satterthwaite's: a variance that is estimated from c independent values of the kurtosis k is
    worth 2 c / (k - 1) degrees. Where mistakes sit in one or two clusters, these alone decide the
    variance, and few degrees are left. The values are the figures' changes where a cluster counts
    half.

    Args:
        clusters: What is drawn.
        figures: As in `bootstrap`.
        width: Numbers that `figures` computes of each row of weights; keeps memory small.

    Returns:
        Infinity where each cluster is a single image: limits on the logit scale hold there.
    """
    whole = figures(clusters.times[None])
    if clusters.codes.sum(axis=1).max() <= 1:
        return {name: np.full(value.shape[1:], np.inf) for name, value in whole.items()}
    rows, kinds = max(_AT_ONCE // max(len(clusters.times), width), 1), len(clusters.times)
    parts: dict[str, list[Floats]] = {}
    for start in range(0, kinds, rows):
        less = np.eye(kinds)[start : start + rows] / 2
        for name, moved in figures(clusters.times - less).items():
            parts.setdefault(name, []).append(moved - whole[name])
    return {name: _freedom(clusters, np.concatenate(part)) for name, part in parts.items()}


def _freedom(clusters: Clusters, pulls: Floats) -> Floats:
    """Degrees of freedom (...) of a variance that is estimated from pulls (u, ...)."""
    c = clusters.count
    squares = (pulls - np.tensordot(clusters.times, pulls, axes=1) / c) ** 2
    second, fourth = (np.tensordot(clusters.times, squares**k, axes=1) / c for k in (1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = 2 * c * second**2 / np.maximum(fourth - second**2, 0)
    return np.where(np.isnan(found), np.inf, found)
