"""Out-of-distribution scores to compare: each is fitted to own images and scores others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.ood import Score, fit_subspace

Floats = NDArray[np.floating[Any]]
Fit = Callable[["Seen"], Score]

_NEIGHBOUR = 5  # which of the nearest own images counts


@dataclass(frozen=True)
class Seen:
    """What scores may use of n images.

    Attributes:
        descriptors: Of `OodDescriptor`, (n, d).
        pooled: Output of the frozen backbone, (n, features).
        labels: Classes of own images, (n,).
    """

    descriptors: Floats
    pooled: Floats
    labels: NDArray[np.int64]

    def __getitem__(self, rows: Any) -> Seen:
        return Seen(self.descriptors[rows], self.pooled[rows], self.labels[rows])


def _residual(of: str) -> Fit:
    """Distance from the principal subspace (Wang et al. 2022), as `fit_detector` uses it."""

    def fit(own: Seen) -> Score:
        space = fit_subspace(getattr(own, of))
        assert space is not None
        return lambda seen: space.distance(getattr(seen, of))

    return fit


def _gaussian(values: Floats) -> Score:
    """Squared Mahalanobis distance from one normal distribution, Ledoit-Wolf covariance."""
    from sklearn.covariance import LedoitWolf

    found = LedoitWolf().fit(values)
    return lambda seen: np.asarray(found.mahalanobis(seen))


def _mahalanobis(of: str, relative: bool) -> Fit:
    """Distance to the nearest class, all with one covariance (Lee et al. 2018).

    Relative: minus the distance from the normal distribution of all own images (Ren et al. 2021).
    """

    def fit(own: Seen) -> Score:
        values, labels = getattr(own, of), own.labels
        means = np.stack([values[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
        tied: Any = _gaussian(values - means[labels])
        background: Any = _gaussian(values)

        def score(seen: Seen) -> NDArray[np.float64]:
            given = getattr(seen, of)
            nearest = np.min([tied(given - mean) for mean in means], axis=0)
            return np.asarray(nearest - background(given) if relative else nearest)

        return score

    return fit


def _neighbours(of: str) -> Fit:
    """Distance to the fifth nearest own image, vectors of length 1 (Sun et al. 2022)."""

    def fit(own: Seen) -> Score:
        known = _unit(getattr(own, of))

        def score(seen: Seen) -> NDArray[np.float64]:
            alike = _unit(getattr(seen, of)) @ known.T
            return np.asarray(1 - np.partition(alike, -_NEIGHBOUR, axis=1)[:, -_NEIGHBOUR])

        return score

    return fit


def _unit(values: Floats) -> Floats:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))


def _of_logits(kind: str) -> Fit:
    """Scores of the outputs of a logistic regression on the pooled features.

    Energy (Liu et al. 2020), maximum probability (Hendrycks and Gimpel 2017), or ViM (Wang et al.
    2022), which adds the residual, scaled to the mean of the largest logit, to the energy.
    """

    def fit(own: Seen) -> Score:
        from scipy.special import logsumexp
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=500))
        head.fit(own.pooled, own.labels)
        space = fit_subspace(own.pooled)
        assert space is not None
        largest = head.decision_function(own.pooled).max(axis=1).mean()
        scale = largest / space.distance(own.pooled).mean()

        def score(seen: Seen) -> NDArray[np.float64]:
            logits = head.decision_function(seen.pooled)
            if kind == "maximum probability":
                return np.asarray(-head.predict_proba(seen.pooled).max(axis=1))
            energy = -logsumexp(logits, axis=1)
            beside = scale * space.distance(seen.pooled) if kind == "ViM" else 0
            return np.asarray(energy + beside)

        return score

    return fit


KEPT = "residual, descriptors"
SCORES: dict[str, Fit] = {
    KEPT: _residual("descriptors"),
    "Mahalanobis, descriptors": _mahalanobis("descriptors", relative=False),
    "relative Mahalanobis, descriptors": _mahalanobis("descriptors", relative=True),
    "kNN, descriptors": _neighbours("descriptors"),
    "residual, pooled features": _residual("pooled"),
    "Mahalanobis, pooled features": _mahalanobis("pooled", relative=False),
    "relative Mahalanobis, pooled features": _mahalanobis("pooled", relative=True),
    "kNN, pooled features": _neighbours("pooled"),
    "ViM, pooled features": _of_logits("ViM"),
    "energy": _of_logits("energy"),
    "maximum probability": _of_logits("maximum probability"),
}
