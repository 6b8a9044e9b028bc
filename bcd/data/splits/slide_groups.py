"""Estimated slide groups: images probably taken in one acquisition session, if none is recorded.

Images of a slide share its stain and light, and cameras number files in the order of acquisition.
If several sessions are interleaved (every second or third file belongs to one), the stride is
estimated first. None of this proves that two groups are two patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcd.data.catalog import Catalog
from bcd.data.file_order import MOST_TURNS, file_order
from bcd.data.quality.image_statistics import ImageStatistics
from bcd.data.quality.profile import DataProfile
from bcd.data.splits.linking import link, settle

_STRIDES = range(1, MOST_TURNS + 1)
_RUN = 12  # images per run joined by file order, before only image statistics decide
_LEAST = 8  # groups per class, however small, so that three sets can be made of them
_ORDERED = 0.15  # smallest certainty at which file order is used


@dataclass(frozen=True)
class Slides:
    """Estimated slide groups of a catalog.

    Attributes:
        groups: Name of each image's estimated slide; a slide has images of one class only.
        strides: By class: number of interleaved sessions; files of one are this far apart.
        certainty: By class: by how much neighbours in file order differ less in stain and light
            than any two images; 0 if order is uninformative, at most 1.
    """

    groups: tuple[str, ...]
    strides: dict[str, int]
    certainty: dict[str, float]


def likely_slides(catalog: Catalog, profile: DataProfile, size: int) -> Slides:
    """Groups the images of each class by file order, background, stain and overlaps.

    Args:
        catalog: The images.
        profile: Of the same.
        size: Intended average number of images in a group.
    """
    labels = np.asarray(catalog.labels, np.int64)
    joined = link(np.arange(len(labels)), labels, profile.overlaps)[0]
    groups = [""] * len(catalog.images)
    strides: dict[str, int] = {}
    certainty: dict[str, float] = {}
    for label, name in enumerate(catalog.classes):
        order = file_order(catalog, label)
        statistics = _standardized(profile.statistics, order)
        strides[name], certainty[name] = _stride(statistics)
        count = max(round(len(order) / size), min(_LEAST, len(order) // 5), 1)
        steps = strides[name] if certainty[name] >= _ORDERED else 0
        found = _group(statistics, count, steps, joined[order])
        for index, group in zip(order, found, strict=True):
            groups[index] = f"{name}/{group:03d}"
    return Slides(tuple(groups), strides, certainty)


def _standardized(statistics: ImageStatistics, order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Light, and hue and strength of both stains, (n, 11), each with unit variance."""
    parts = [statistics.background[order].astype(np.float64)]
    for tone in (statistics.middle, statistics.dark):
        density = np.log((statistics.background[order] + 1.0) / (tone[order] + 1.0))
        strength = np.linalg.norm(density, axis=1, keepdims=True)
        parts += [density / np.maximum(strength, 1e-6), strength]
    values = np.concatenate(parts, axis=1)
    return np.asarray((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6))


def _stride(statistics: NDArray[np.float64]) -> tuple[int, float]:
    """The stride at which neighbours are most similar, and how much more than any two images.

    This is one minus half of von Neumann's ratio of the mean square successive difference to the
    variance (Ann Math Stat 1941;12:367); half of that ratio is near 1 if order is uninformative.
    """
    best = (1, 0.0)
    for stride in _STRIDES:
        if len(statistics) < 4 * stride:
            break
        steps = statistics[stride:] - statistics[:-stride]
        certainty = 1 - float(np.square(steps).mean() / 2)
        if certainty > best[1] + 0.02:  # prefer smaller strides
            best = (stride, round(certainty, 3))
    return best


def _group(
    statistics: NDArray[np.float64], count: int, stride: int, joined: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Numbers the groups of images in file order, (n,).

    Args:
        statistics: Of each image, (n, d).
        count: Number of groups.
        stride: Number of interleaved sessions; 0 ignores file order.
        joined: Number of each image's set of overlapping images, (n,), which lie on one slide.
    """
    n = len(statistics)
    if count < 2 or n < 3:
        return np.zeros(n, np.int64)
    # The ends of runs are estimated, whereas overlaps are observed, so overlaps take precedence.
    runs = settle(_runs(statistics, stride), joined) if stride else joined
    runs = np.unique(runs, return_inverse=True)[1].astype(np.int64)
    means = np.stack([statistics[runs == run].mean(axis=0) for run in range(runs.max() + 1)])
    if len(means) <= count:
        return runs
    # Similar sessions are joined: better two slides in one group than one slide in two groups.
    from sklearn.cluster import KMeans

    alike = KMeans(count, n_init=4, random_state=0).fit(means, sample_weight=np.bincount(runs))
    return np.asarray(alike.labels_, np.int64)[runs]


def _runs(statistics: NDArray[np.float64], stride: int) -> NDArray[np.int64]:
    """Cuts each interleaved sequence where stain or light jump (Ward, JASA 1963;58:236)."""
    from scipy.sparse import diags_array

    runs = np.zeros(len(statistics), np.int64)
    first = 0
    for turn in range(stride):
        own = np.arange(turn, len(statistics), stride)
        count = max(1, len(own) // _RUN)
        chain = diags_array([np.ones(len(own) - 1)], offsets=[1], shape=(len(own), len(own)))
        found = (
            _ward(statistics[own], count, chain + chain.T) if count > 1 else np.zeros(len(own), int)
        )
        runs[own] = first + found
        first += count
    return runs


def _ward(values: NDArray[np.float64], count: int, neighbours: object) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering

    ward = AgglomerativeClustering(n_clusters=count, linkage="ward", connectivity=neighbours)
    return np.asarray(ward.fit_predict(values), np.int64)
