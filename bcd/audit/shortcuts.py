"""Shortcuts: how well the class can be told from other things than the shape of cells."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.audit.checks import FAIL, PASS, WARN, Check
from bcd.data.catalog import Catalog
from bcd.data.looks import Looks
from bcd.data.split import Split
from bcd.storage import cache_dir, write_text

_VERSION = 2  # raise it when the same looks give other scores
_TREES = 100
_WIDE = 64  # values from which on a source is one of pixels
_MOST = 4000  # pictures that a forest learns from; more tell nothing new and take minutes

# Area under the curve of the class that is told best. A class that nothing but its corner tells is
# a shortcut, even if the corner says nothing of the others and the balanced accuracy is low.
_TELLS, _GIVES_AWAY = 0.85, 0.95
_MARK = 0.05  # balanced accuracy by which a marked corner is above the other corners

Values = NDArray[np.float32]

CORNERS = ("top left", "top right", "bottom left", "bottom right")
COLOUR = "colour quantiles of the whole image"
_CORNER = "corner, "


@dataclass(frozen=True)
class Score:
    """How well one source tells the class on the test part of one split.

    Attributes:
        source: What was looked at.
        split: Name of the split.
        balanced_accuracy: Mean recall over classes.
        accuracy: Share of pictures that were told right.
        best_class: The class that it tells best from the rest.
        best_auroc: Area under the curve for it.
        n: Test pictures.
    """

    source: str
    split: str
    balanced_accuracy: float
    accuracy: float
    best_class: str
    best_auroc: float
    n: int


def _file(looks: Looks, catalog: Catalog) -> Values:
    sizes = np.asarray([(p.width, p.height) for p in catalog.pictures], np.float32)
    return np.concatenate([looks.encoding, sizes], axis=1)


def _corner(number: int, looks: Looks, _: Catalog) -> Values:
    corner = looks.corners[:, number].astype(np.float32)
    # A mark is dark on light or light on dark; how light the slide is is another question.
    brightest = np.quantile(corner, 0.9, axis=1, keepdims=True)
    return np.asarray(corner - brightest, np.float32)


SOURCES: dict[str, Callable[[Looks, Catalog], Values]] = {
    "background colour": lambda looks, _: looks.background,
    COLOUR: lambda looks, _: looks.quantiles,
    "border": lambda looks, _: looks.frame.astype(np.float32),
    "16 x 16 thumbnail": lambda looks, _: looks.tiny.reshape(len(looks.tiny), -1).astype(
        np.float32
    ),
    "file size and JPEG tables": _file,
    **{_CORNER + name: partial(_corner, number) for number, name in enumerate(CORNERS)},
}
"""What is not the shape of cells, though cells may colour it: of n pictures, values (n, d)."""

MASKED = _CORNER + CORNERS[-1]  # what `data.mask_scale_bar` hides from the network


def score(
    source: str, values: Values, catalog: Catalog, split: Split, name: str, linear: bool = False
) -> Score:
    """Learns the class from values on train and val, and says how well that does on test.

    Args:
        source: Name of the values.
        values: (n, d).
        catalog: Gives the classes.
        split: The parts.
        name: Of the split.
        linear: Whether a linear model learns (the head on frozen features), else a random forest.
    """
    labels = np.asarray(catalog.labels)
    train = np.asarray([*split.indices("train"), *split.indices("val")])
    if len(train) > _MOST:
        train = np.sort(np.random.default_rng(0).choice(train, _MOST, replace=False))
    test = np.asarray(split.indices("test"))
    model = _linear() if linear else _forest(values.shape[1])
    model.fit(values[train], labels[train])
    k = len(catalog.classes)
    probabilities = np.zeros((len(test), k))
    probabilities[:, model.classes_] = model.predict_proba(values[test])
    return _scored(source, name, probabilities, labels[test], catalog.classes)


def _scored(
    source: str,
    split: str,
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
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


def remembered(catalog: Catalog, split: Split, source: str, compute: Callable[[], Score]) -> Score:
    """A score, from memory where the same pictures were split the same way before."""
    pairs = zip(catalog.pictures, split.subsets, strict=True)
    rows = [f"{picture.sha256} {picture.label} {subset}" for picture, subset in pairs]
    text = "\n".join([str(_VERSION), source, *catalog.classes, *rows])
    file = cache_dir() / "shortcuts" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Score(**json.loads(file.read_text(encoding="utf-8")))
    made = compute()
    with contextlib.suppress(OSError):  # without a memory the next run computes it again, no more
        write_text(file, json.dumps(asdict(made)))
    return made


_MENDS = {
    "background colour": "split=grouped split.groups=auto to see its part; augment=strong",
    COLOUR: "split=grouped split.groups=auto to see its part; augment=strong",
    "border": "augment=strong",
    "16 x 16 thumbnail": "augment=strong",
    "file size and JPEG tables": "save all classes with one program and one quality",
    MASKED: "data.mask_scale_bar=true",
}
_CROP = "crop the corner off in all pictures"


def check_shortcuts(scores: Sequence[Score], network: Mapping[str, float]) -> list[Check]:
    """A check for each source, from its score on the user's own split, the first of its scores.

    Args:
        scores: Of each source on each split.
        network: Balanced accuracy of the network on test, by split; may be empty.
    """
    checks = []
    by_source = {s.source: [t for t in scores if t.source == s.source] for s in scores}
    corners = [found[0] for name, found in by_source.items() if name.startswith(_CORNER)]
    usual = float(np.median([s.balanced_accuracy for s in corners])) if corners else 0.0
    for source, (own, *others) in by_source.items():
        status = PASS
        # A corner holds cells too; a mark makes it tell more than the other corners do.
        marked = not source.startswith(_CORNER) or own.balanced_accuracy >= usual + _MARK
        if own.best_auroc >= _TELLS and marked:
            status = FAIL if own.best_auroc >= _GIVES_AWAY else WARN
        finding = "; ".join(_told(s, network.get(s.split)) for s in (own, *others))
        if status != PASS:
            finding += f"; tells {own.best_class} best (area {own.best_auroc:.3f})"
        mend = "" if status == PASS else _MENDS.get(source, _CROP)
        facts = {"scores": [asdict(s) for s in (own, *others)]}
        checks.append(Check(f"shortcut: {source}", status, finding, mend, facts))
    return checks


def _told(score: Score, network: float | None) -> str:
    beside = "" if network is None else f" (the network {network:.1%})"
    return f"{score.balanced_accuracy:.1%} balanced on the {score.split} split{beside}"
