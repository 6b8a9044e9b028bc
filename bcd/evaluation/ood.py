"""Out-of-distribution (OOD) score: how much an image differs from the data set's own images.

The score is the distance of an image's descriptor (`bcd.models.ood_descriptor`) from the principal
subspace of the descriptors of train and val, as the residual in ViM (Wang et al., "ViM:
Out-of-distribution with virtual-logit matching", CVPR 2022). `python -m bench.ood` compares it with
other scores at the same share of own images referred; docs/results.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.thresholds import lower_limit

_DIRECTIONS = 64  # of the subspace; for short feature vectors, an eighth of their length
_ROWS = 1024  # descriptors at a time, so that memory stays small
_FOLDS = 10
MAX_IMAGES = 4000  # images that the subspace is fitted to

Floats = NDArray[np.floating[Any]]
Score = Callable[[Any], NDArray[np.float64]]


@dataclass(frozen=True)
class Subspace:
    """Principal subspace of the descriptors of own images.

    Attributes:
        mean: Of the descriptors, float32 (d,).
        basis: Orthonormal rows, float32 (k, d).
        limit: Distance above which an image is out of distribution.
        own: Cross-fitted distance of each own image, (n,), in the order they were given; None if
            unknown. Not stored in checkpoints.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    limit: float = math.inf
    own: NDArray[np.float64] | None = None

    def to_plain(self) -> dict[str, Any]:
        """A number and tensors, as stored in a checkpoint."""
        import torch  # not needed for distances

        mean, basis = torch.from_numpy(self.mean), torch.from_numpy(self.basis)
        return {"mean": mean, "basis": basis, "limit": self.limit}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Subspace:
        """Restores what `to_plain` made."""
        return cls(plain["mean"].numpy(), plain["basis"].numpy(), float(plain["limit"]))

    def distance(self, features: Floats) -> NDArray[np.float64]:
        """Distance (n,) of features (n, d) from the subspace."""
        parts = [self._outside(features[i : i + _ROWS]) for i in range(0, len(features), _ROWS)]
        return np.concatenate([np.empty(0), *parts])

    def _outside(self, features: Floats) -> NDArray[np.float64]:
        centred = features.astype(np.float64) - self.mean
        inside = centred @ self.basis.T.astype(np.float64)
        rest = np.square(centred).sum(axis=1) - np.square(inside).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(rest, 0)))


def fit_subspace(features: Floats) -> Subspace | None:
    """Finds the directions in which features (n, d) vary most; None if there are too few."""
    import torch

    n, d = features.shape
    directions = min(_DIRECTIONS, d // 8, n // 4)
    if directions < 1:
        return None
    given = torch.from_numpy(np.ascontiguousarray(features, np.float32))
    mean = given.mean(dim=0)
    with torch.random.fork_rng(devices=[]):  # the algorithm starts from random directions
        torch.manual_seed(0)
        _, _, found = torch.svd_lowrank(given - mean, directions, niter=4)
    return Subspace(mean.numpy(), found.T.contiguous().numpy())


def thinned(images: list[int]) -> list[int]:
    """At most `MAX_IMAGES` of the images of train, evenly spaced, to fit a detector to."""
    return images[:: max(-(-len(images) // MAX_IMAGES), 1)]


def fit_detector(
    descriptors: Floats, share: float, groups: Sequence[str] | None = None
) -> Subspace | None:
    """Fits the subspace, and a limit that about the given share of new own images exceeds.

    The limit is a quantile of distances that are cross-fitted: each image's distance is from a
    subspace that was fitted without it, and without its whole group where groups are given. So the
    images that the network was trained on can be used, and the share refers to new groups. Each
    image has the same weight. For independent images a new one is beyond the limit with a
    probability of at most `share` (split conformal prediction, up to the few more images of the
    final subspace); `tests/promises` measures how far off few, unequal and correlated groups are.

    Args:
        descriptors: Of plain images of train and val, (n, d).
        share: Of own images to be out of distribution; 0: none.
        groups: Group of each image, (n,); None if images are independent.

    Returns:
        None if there are too few images or groups.
    """
    whole = fit_subspace(descriptors)
    folds = assign_folds(len(descriptors), groups)
    if whole is None or len(np.unique(folds)) < 2:
        return None
    if share <= 0:
        return whole
    distances = cross_fitted_scores(_distance, descriptors, folds)
    if distances is None:
        return None
    return replace(whole, limit=_limit(distances, share), own=distances)


def _distance(descriptors: Floats) -> Score | None:
    space = fit_subspace(descriptors)
    return None if space is None else space.distance


def cross_fitted_limit(
    fit: Callable[[Any], Score | None], own: Any, folds: NDArray[np.int64], share: float
) -> float | None:
    """Limit that a share of own images exceeds, from `cross_fitted_scores`.

    It is the conformal limit of `lower_limit`, for scores that are high for foreign images.

    Args:
        fit: Makes a score of images from own images; None if they are too few.
        own: Anything to index by image, n in all.
        folds: Fold of each image, (n,), at least two.
        share: Above 0.

    Returns:
        None if `fit` had too few images.
    """
    scores = cross_fitted_scores(fit, own, folds)
    return None if scores is None else _limit(scores, share)


def _limit(scores: NDArray[np.float64], share: float) -> float:
    return -lower_limit(-scores, share).value


def cross_fitted_scores(
    fit: Callable[[Any], Score | None], own: Any, folds: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Score (n,) of each own image, fitted without its fold; the arguments of the limit."""
    scores = np.empty(len(folds))
    for fold in np.unique(folds):
        left_out = folds == fold
        score = fit(own[~left_out])
        if score is None:
            return None
        scores[left_out] = score(own[left_out])
    return scores


def assign_folds(n: int, groups: Sequence[str] | None) -> NDArray[np.int64]:
    """Fold of each of n images; whole groups, the largest first, go to the smallest fold."""
    if groups is None:
        return np.arange(n) % _FOLDS
    _, owners, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    filled, fold_of = np.zeros(_FOLDS, np.int64), np.zeros(len(counts), np.int64)
    for group in np.argsort(-counts, kind="stable"):
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += counts[group]
    return np.asarray(fold_of[owners], np.int64)
