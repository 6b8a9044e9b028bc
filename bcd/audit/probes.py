"""Probes: how well a simple model predicts the class from one source, on one split."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.audit.sources import Values
from bcd.data.catalog import Catalog
from bcd.data.splits.split import Split
from bcd.storage import JsonCache

CACHE = JsonCache("shortcuts")

_VERSION = 5  # increase it when scores change for the same statistics
_TREES = 100
_PIXEL_WIDTH = 64  # sources with more values are taken to be pixels
_MAX_IMAGES = 4000  # images that a probe is fitted on; more add nothing and take minutes
_MIN_SHARE = (
    0.5  # share of images of each class, in train and val and in test, that must have values
)
_RIDGE = 1e-3  # of the number of images; keeps nearly equal quantiles from cancelling out


@dataclass(frozen=True)
class ProbeScore:
    """How well a probe predicts the class from a source on the test set of a split.

    Attributes:
        source: What the probe is given.
        split: Name of the split.
        balanced_accuracy: Mean recall over classes.
        accuracy: Share of correct predictions.
        best_class: The class with the highest AUROC against the rest.
        best_auroc: That AUROC.
        n: Number of test images.
        chance: Balanced accuracy of guessing.
        left_out: Number of further test images without values for the source.
    """

    source: str
    split: str
    balanced_accuracy: float
    accuracy: float
    best_class: str
    best_auroc: float
    n: int
    chance: float
    left_out: int


@dataclass(frozen=True)
class SkippedProbe:
    """A probe that was skipped, as too few images have values for its source.

    Attributes:
        source: What the probe would be given.
        split: Name of the split.
        reason: In one line.
    """

    source: str
    split: str
    reason: str


def score_probe(
    source: str, values: Values, catalog: Catalog, split: Split, name: str, linear: bool = False
) -> ProbeScore | SkippedProbe:
    """Fits a probe on train and val, and scores it on test.

    Args:
        source: Name of the values.
        values: (n, d); images with a row that is not finite are left out.
        catalog: Holds the classes.
        split: Of the images.
        name: Of the split.
        linear: Whether the probe is logistic regression (as for frozen features), else a random
            forest.

    Returns:
        The score; `SkippedProbe` if fewer than half of the images of a class have values, in train
        and val or in test.
    """
    labels = np.asarray(catalog.labels)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    fitted, test = fit_indices(split), np.asarray(split.indices("test"))
    for subset, indices in (("train and val", fitted), ("test", test)):
        for k in np.unique(labels[indices]):
            own = finite[indices[labels[indices] == k]]
            if own.mean() < _MIN_SHARE:
                reason = (
                    f"only {own.sum()} of {len(own)} {catalog.classes[k]} in {subset} have values"
                )
                return SkippedProbe(source, name, reason)
    train, left = fitted[finite[fitted]], test[finite[test]]
    train = thinned(train)
    model = linear_probe() if linear else _forest(values.shape[1])
    model.fit(values[train], labels[train])
    probabilities = np.zeros((len(left), len(catalog.classes)))
    probabilities[:, model.classes_] = model.predict_proba(values[left])
    out = len(test) - len(left)
    return _scored(source, name, probabilities, labels[left], catalog.classes, out)


def thinned(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """A random `_MAX_IMAGES` of the images that a probe is to be fitted on, or all if fewer."""
    if len(indices) <= _MAX_IMAGES:
        return indices
    return np.sort(np.random.default_rng(0).choice(indices, _MAX_IMAGES, replace=False))


def fit_indices(split: Split) -> NDArray[np.int64]:
    """Indices of the images that probes are fitted on: train and val."""
    return np.asarray([*split.indices("train"), *split.indices("val")], np.int64)


def regress_out_colour(features: Values, colours: Values, fitted: NDArray[np.int64]) -> Values:
    """Residuals of features after a linear regression on colours.

    The regression is a ridge regression (Hoerl and Kennard 1970), fitted on the given images and
    applied to all. If colour predicts the class, it also removes what shape and colour have in
    common, and it keeps any nonlinear dependence on colour. A low score therefore does not prove
    that a network relies on colour; it only fails to show that the network knows more.

    Args:
        features: (n, channels).
        colours: Finite, (n, d).
        fitted: Indices of the images to fit on.

    Returns:
        (n, channels).
    """
    mean, sd = colours[fitted].mean(axis=0), colours[fitted].std(axis=0)
    scaled = (colours - mean) / np.maximum(sd, 1e-6)
    usual = features[fitted].mean(axis=0)
    x, y = scaled[fitted].astype(np.float64), (features[fitted] - usual).astype(np.float64)
    ridge = _RIDGE * len(fitted) * np.eye(x.shape[1])
    slopes = np.linalg.solve(x.T @ x + ridge, x.T @ y)
    return np.asarray(features - usual - scaled @ slopes, np.float32)


def _scored(
    source: str,
    split: str,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    left_out: int,
) -> ProbeScore:
    from sklearn.metrics import roc_auc_score

    correct = probabilities.argmax(axis=1) == labels
    present = np.unique(labels)
    areas = {
        int(k): float(roc_auc_score(labels == k, probabilities[:, k])) if len(present) > 1 else 0.5
        for k in present
    }
    best = max(areas, key=areas.__getitem__)
    return ProbeScore(
        source,
        split,
        float(np.mean([correct[labels == k].mean() for k in present])),
        float(correct.mean()),
        classes[best],
        areas[best],
        len(labels),
        1 / len(present),
        left_out,
    )


def _forest(width: int) -> Any:
    """A random forest (Breiman 2001), or extremely randomized trees (Geurts et al. 2006) on pixels.

    On pixels these take a quarter of the time and predict the class about as well.
    """
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    if width > _PIXEL_WIDTH:
        return ExtraTreesClassifier(_TREES // 2, n_jobs=-1, random_state=0)
    return RandomForestClassifier(_TREES, n_jobs=-1, random_state=0)


def linear_probe() -> Any:
    """A logistic regression on standardized values, for features of a network."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))


def load_or_compute(
    catalog: Catalog, split: Split, source: str, compute: Callable[[], ProbeScore | SkippedProbe]
) -> ProbeScore | SkippedProbe:
    """A score, from the cache if the same images were split in the same way before."""
    pairs = zip(catalog.images, split.subsets, strict=True)
    rows = [f"{image.sha256} {image.label} {subset}" for image, subset in pairs]
    text = "\n".join([str(_VERSION), source, *catalog.classes, *rows])
    stored = CACHE.load(text)
    with contextlib.suppress(TypeError):  # nothing, or not what this version writes
        return SkippedProbe(**stored) if "reason" in stored else ProbeScore(**stored)
    computed = compute()
    CACHE.save(text, f"{source}, {computed.split} split, of {catalog.root}", asdict(computed))
    return computed
