"""Probes: how well a simple model tells the class from a source, on one split."""

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

_VERSION = 5  # raise it when the same looks give other scores
_TREES = 100
_WIDE = 64  # values from which on a source is one of pixels
_MOST = 4000  # images that a forest learns from; more tell nothing new and take minutes
_ENOUGH = 0.5  # share of each class's images, in train and in test, that must have values
_RIDGE = 1e-3  # of the images' number: keeps quantiles that are nearly equal from cancelling out


@dataclass(frozen=True)
class Score:
    """How well one source tells the class on the test part of one split.

    Attributes:
        source: What was looked at.
        split: Name of the split.
        balanced_accuracy: Mean recall over classes.
        accuracy: Share of images that were told right.
        best_class: The class that it tells best from the rest.
        best_auroc: Area under the curve for it.
        n: Test images.
        chance: Balanced accuracy of guessing.
        left_out: Further test images that the source has no values for.
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
class Unmeasured:
    """A source that too few images have values for.

    Attributes:
        source: What was looked at.
        split: Name of the split.
        reason: In one line of plain words.
    """

    source: str
    split: str
    reason: str


def score(
    source: str, values: Values, catalog: Catalog, split: Split, name: str, linear: bool = False
) -> Score | Unmeasured:
    """Learns the class from values on train and val, and says how well that does on test.

    Args:
        source: Name of the values.
        values: (n, d); images whose row is not finite are left out.
        catalog: Gives the classes.
        split: The parts.
        name: Of the split.
        linear: Whether a linear model learns (the head on frozen features), else a random forest.

    Returns:
        The score; `Unmeasured` where of some class fewer than half of the images have values, in
        train and val or in test.
    """
    labels = np.asarray(catalog.labels)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    learnt, test = learnt_from(split), np.asarray(split.indices("test"))
    for part, indices in (("train and val", learnt), ("test", test)):
        for k in np.unique(labels[indices]):
            own = finite[indices[labels[indices] == k]]
            if own.mean() < _ENOUGH:
                reason = f"only {own.sum()} of {len(own)} {catalog.classes[k]} in {part} have any"
                return Unmeasured(source, name, reason)
    train, left = learnt[finite[learnt]], test[finite[test]]
    if len(train) > _MOST:
        train = np.sort(np.random.default_rng(0).choice(train, _MOST, replace=False))
    model = _linear() if linear else _forest(values.shape[1])
    model.fit(values[train], labels[train])
    probabilities = np.zeros((len(left), len(catalog.classes)))
    probabilities[:, model.classes_] = model.predict_proba(values[left])
    out = len(test) - len(left)
    return _scored(source, name, probabilities, labels[left], catalog.classes, out)


def learnt_from(split: Split) -> NDArray[np.int64]:
    """Indices of the images that probes learn from: train and val."""
    return np.asarray([*split.indices("train"), *split.indices("val")], np.int64)


def without_colour(features: Values, colours: Values, learnt: NDArray[np.int64]) -> Values:
    """What a linear function of colours does not explain of each feature.

    The function is a ridge regression on the images that are learnt from, and is taken off all.
    Where colour tells the class, that takes from shape too what both tell; and what depends on
    colour in other ways than linearly stays. So a low score does not prove that a network goes by
    colour, only that it is not shown to know more.

    Args:
        features: (n, channels).
        colours: Finite, (n, d).
        learnt: Indices of the images to fit on; the others are not looked at.

    Returns:
        (n, channels).
    """
    middle, spread = colours[learnt].mean(axis=0), colours[learnt].std(axis=0)
    scaled = (colours - middle) / np.maximum(spread, 1e-6)
    usual = features[learnt].mean(axis=0)
    x, y = scaled[learnt].astype(np.float64), (features[learnt] - usual).astype(np.float64)
    ridge = _RIDGE * len(learnt) * np.eye(x.shape[1])
    slopes = np.linalg.solve(x.T @ x + ridge, x.T @ y)
    return np.asarray(features - usual - scaled @ slopes, np.float32)


def _scored(
    source: str,
    split: str,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    left_out: int,
) -> Score:
    from sklearn.metrics import roc_auc_score

    right = probabilities.argmax(axis=1) == labels
    present = np.unique(labels)
    areas = {
        int(k): float(roc_auc_score(labels == k, probabilities[:, k])) if len(present) > 1 else 0.5
        for k in present
    }
    best = max(areas, key=areas.__getitem__)
    return Score(
        source,
        split,
        float(np.mean([right[labels == k].mean() for k in present])),
        float(right.mean()),
        classes[best],
        areas[best],
        len(labels),
        1 / len(present),
        left_out,
    )


def _forest(width: int) -> Any:
    """A random forest; on pixels half as many trees, whose limits are drawn instead of searched.

    That takes a quarter of the time there and tells the class about as well.
    """
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    if width > _WIDE:
        return ExtraTreesClassifier(_TREES // 2, n_jobs=-1, random_state=0)
    return RandomForestClassifier(_TREES, n_jobs=-1, random_state=0)


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))


def remembered(
    catalog: Catalog, split: Split, source: str, compute: Callable[[], Score | Unmeasured]
) -> Score | Unmeasured:
    """A score, from memory where the same images were split the same way before."""
    pairs = zip(catalog.images, split.subsets, strict=True)
    rows = [f"{image.sha256} {image.label} {subset}" for image, subset in pairs]
    text = "\n".join([str(_VERSION), source, *catalog.classes, *rows])
    stored = CACHE.load(text)
    with contextlib.suppress(TypeError):  # nothing, or not what this version writes
        return Unmeasured(**stored) if "reason" in stored else Score(**stored)
    made = compute()
    CACHE.save(text, f"{source}, {made.split} split, of {catalog.root}", asdict(made))
    return made
