"""The cluster bootstrap: how much metrics vary when whole groups are drawn with replacement.

Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8. Confidence limits
are computed from it in `intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.data.splits.linking import named_apart

Groups = Sequence[Any] | NDArray[Any]
Floats = NDArray[np.float64]

DRAWS = 2000  # the standard error then differs by about 1.6 % from that of infinitely many
_AT_ONCE = 2**19  # values in memory at a time: 4 MB, a few times over


@dataclass(frozen=True)
class Clusters:
    """Images grouped into clusters, which are resampled as a whole.

    Attributes:
        times: (u,), number of clusters of each kind. Clusters with the same counts are
            interchangeable and stored once, so independent images make few kinds.
        codes: (u, c), number of images with each code in a cluster of the kind.
    """

    times: Floats
    codes: Floats

    @property
    def count(self) -> float:
        """Number of clusters."""
        return float(self.times.sum())

    def effective(self, sizes: Floats) -> Floats:
        """Effective number of clusters (...), given their sizes (u, ...) (Kish 1965)."""
        squared = np.tensordot(self.times, sizes**2, axes=1)
        total = np.tensordot(self.times, sizes, axes=1) ** 2
        return np.divide(total, squared, out=np.zeros_like(total), where=squared > 0)

    def contributing(self, sizes: Floats) -> Floats:
        """Number of clusters (...) whose size in sizes (u, ...) is not 0."""
        contributors: Floats = np.tensordot(self.times, (sizes > 0).astype(np.float64), axes=1)
        return contributors

    def draw(self, draws: int, seed: int, width: int = 1) -> Iterator[Floats]:
        """Yields weights (some, u), `draws` rows in total: how often each kind was drawn.

        Each row draws as many clusters as there are, all with the same probability.

        Args:
            draws: Number of bootstrap samples.
            seed: Of the random draws.
            width: Number of values computed from each sample; limits how many come at a time.
        """
        rng = np.random.default_rng(seed)
        kinds, count = len(self.times), int(self.count)
        rows = max(_AT_ONCE // max(kinds, width), 1)
        for start in range(0, draws, rows):
            m = min(rows, draws - start)
            if kinds == count:  # ten times as fast if no two are interchangeable
                drawn = rng.integers(kinds, size=(m, kinds)) + kinds * np.arange(m)[:, None]
                weights = np.bincount(drawn.ravel(), minlength=m * kinds).reshape(m, kinds)
            else:
                weights = rng.multinomial(count, self.times / count, size=m)
            yield weights.astype(np.float64)


def group_ids(groups: Groups | None, n: int) -> NDArray[np.int64]:
    """Consecutive group numbers (n,) of groups (n,); one per image if groups are None.

    Raises:
        ValueError: There are no images, or `groups` has another length.
    """
    if n == 0 or (groups is not None and len(groups) != n):
        raise ValueError("intervals need images, and a group for each image or no groups at all")
    if groups is None:
        return np.arange(n)
    numbers: NDArray[np.int64] = np.unique(np.asarray(groups), return_inverse=True)[1]
    return numbers


def fill_group_names(names: Sequence[str]) -> list[str] | None:
    """Gives each image without a group name its own group; None if no image has one."""
    return named_apart(names) if any(names) else None


def join_groups(namings: Sequence[Sequence[str]]) -> list[int] | None:
    """Joins images that share a group in any of several groupings, transitively.

    Args:
        namings: Group names of the same n images in each grouping; an empty name is no group.

    Returns:
        Number of each image's connected component, (n,); None if no two images are joined.
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
    """Effective number of groups (Kish 1965); None without groups."""
    if groups is None:
        return None
    sizes = np.unique(groups, return_counts=True)[1]
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def cluster(codes: NDArray[np.int64], c: int, groups: Groups | None) -> Clusters:
    """Groups images into clusters, or makes each image its own cluster.

    Args:
        codes: (n,), from 0 to c - 1; all that is known of each image.
        c: Number of codes.
        groups: (n,), names of any type; None if images are independent.

    Raises:
        ValueError: There are no images, or `groups` has another length.
    """
    places = group_ids(groups, len(codes))
    if groups is None:
        found, times = np.unique(codes, return_counts=True)
        # In the order of the rows below, so that groups of one image give the same samples.
        return Clusters(times[::-1].astype(np.float64), np.eye(c)[found[::-1]])
    g = int(places.max()) + 1
    counts = np.bincount(places * c + codes, minlength=g * c).reshape(g, c)
    rows, times = np.unique(counts, axis=0, return_counts=True)
    return Clusters(times.astype(np.float64), rows.astype(np.float64))


def bootstrap(
    clusters: Clusters,
    metrics: Callable[[Floats], Mapping[str, Floats]],
    sizes: Mapping[str, Floats],
    draws: int,
    seed: int,
    width: int = 1,
) -> dict[str, Floats]:
    """Computes metrics of bootstrap samples.

    A sample without any image that a metric is about does not define it. Counted as 0, it would
    make groups with a single class look very different.

    Args:
        clusters: The clusters to resample.
        metrics: Maps weights (m, u) of the kinds to metrics (m, ...) by name.
        sizes: What each kind adds to the denominator of each metric, by name: (u, ...) like the
            metric, or with one more axis if it is a mean over that many classes.
        draws: Number of samples.
        seed: Of the random draws.
        width: Number of values that `metrics` computes from each sample; limits the memory used.

    Returns:
        Metrics (draws, ...) by name, NaN where a sample does not define one.
    """
    parts: dict[str, list[Floats]] = {}
    for weights in clusters.draw(draws, seed, width):
        for name, values in metrics(weights).items():
            size = sizes[name]
            defined: NDArray[np.bool_] = np.tensordot(weights, size, axes=1) > 0
            defined |= ~size.any(axis=0)
            if defined.ndim > values.ndim:
                defined = np.asarray(defined.all(axis=-1))
            parts.setdefault(name, []).append(np.where(defined, values, np.nan))
    return {name: np.concatenate(part) for name, part in parts.items()}


def standard_error(clusters: Clusters, samples: Floats, sizes: Floats) -> Floats:
    """Standard errors (...) of metrics.

    The variance over samples of c clusters is too small by the factor (c - 1) / c, which matters if
    there are few. Here c counts the clusters that contribute to the metric; for a mean over
    classes, those that contribute to the class with the fewest.

    Args:
        clusters: The clusters that were resampled.
        samples: (draws, ...), from `bootstrap`.
        sizes: As for `bootstrap`.

    Returns:
        NaN where a single cluster contributes, or where no sample defines the metric.
    """
    contributors = clusters.contributing(sizes)
    if sizes.ndim > samples.ndim:
        contributors = np.where(contributors > 0, contributors, np.inf).min(axis=-1)
    known = ~np.isnan(samples)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, samples, 0).sum(axis=0) / count
    variance = np.where(known, (samples - mean) ** 2, 0).sum(axis=0) / count
    undefined = (contributors < 2) | ~known.any(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error: Floats = np.where(
            undefined, np.nan, np.sqrt(variance * contributors / (contributors - 1))
        )
    return error


def degrees_of_freedom(
    clusters: Clusters, metrics: Callable[[Floats], Mapping[str, Floats]], width: int = 1
) -> dict[str, Floats]:
    """Degrees of freedom (...) of the variances of metrics, by name.

    Satterthwaite's approximation ("An approximate distribution of estimates of variance
    components", 1946): a variance estimated from c independent values with kurtosis k has
    2 c / (k - 1) degrees of freedom. If the errors are concentrated in one or two clusters, these
    alone determine the variance, and few degrees of freedom remain. The values are the influences
    of the clusters: the change of a metric when a cluster's weight is halved.

    Args:
        clusters: The clusters to resample.
        metrics: As for `bootstrap`.
        width: Number of values that `metrics` computes from each row of weights; limits memory.

    Returns:
        Infinity if each cluster is a single image, for which limits on the logit scale hold.
    """
    whole = metrics(clusters.times[None])
    if clusters.codes.sum(axis=1).max() <= 1:
        return {name: np.full(value.shape[1:], np.inf) for name, value in whole.items()}
    rows, kinds = max(_AT_ONCE // max(len(clusters.times), width), 1), len(clusters.times)
    parts: dict[str, list[Floats]] = {}
    for start in range(0, kinds, rows):
        less = np.eye(kinds)[start : start + rows] / 2
        for name, shifted in metrics(clusters.times - less).items():
            parts.setdefault(name, []).append(shifted - whole[name])
    return {name: _satterthwaite(clusters, np.concatenate(part)) for name, part in parts.items()}


def _satterthwaite(clusters: Clusters, influences: Floats) -> Floats:
    """Degrees of freedom (...) of a variance estimated from influences (u, ...)."""
    c = clusters.count
    squares = (influences - np.tensordot(clusters.times, influences, axes=1) / c) ** 2
    second, fourth = (np.tensordot(clusters.times, squares**k, axes=1) / c for k in (1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = 2 * c * second**2 / np.maximum(fourth - second**2, 0)
    return np.where(np.isnan(found), np.inf, found)
