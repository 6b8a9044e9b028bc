"""Fitted heads against scikit-learn's own answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bcd.config.compose import with_defaults
from bcd.config.head import FITTED_HEADS, HeadConfig
from bcd.config.schema import ModelConfig
from bcd.errors import BcdError, ConfigError
from bcd.models.heads.base import FittedHead
from bcd.models.heads.factory import make_head
from bcd.models.heads.scikit_learn import SHARPNESS
from tests.helpers.harness import train_config

FEATURES, CLASSES = 20, 4
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def drawn(
    seed: int, count: int, classes: int = CLASSES, labels: Labels | None = None
) -> tuple[Floats, Labels]:
    """Overlapping classes, of features whose means and spreads differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes) if labels is None else labels
    centres = np.random.default_rng(99).normal(0, 0.7, (classes, FEATURES))
    spread = np.logspace(-2, 2, FEATURES)
    values = (centres[labels] + rng.normal(size=(count, FEATURES))) * spread + 3 * spread
    values[:, 3] = 5  # never changes
    return values.astype(np.float32), labels


def fitted(cfg: HeadConfig, features: Floats, labels: Labels, classes: int = CLASSES,
           balanced: bool = False) -> FittedHead:  # fmt: skip
    head = make_head(FEATURES, classes, cfg)
    assert isinstance(head, FittedHead)
    head.fit(features, labels, balanced, seed=3)
    return head


def answers(head: FittedHead, features: Floats) -> NDArray[Any]:
    with torch.inference_mode():
        return np.asarray(head(torch.from_numpy(features)), np.float64)


def probabilities(head: FittedHead, features: Floats) -> NDArray[Any]:
    sharp = SHARPNESS.get(head.cfg.kind, 1)
    return torch.from_numpy(answers(head, features) / sharp).softmax(1).numpy()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_logreg_gives_scikit_learns_probabilities(classes: int, balanced: bool) -> None:
    features, labels = drawn(0, 200, classes)
    kept = (labels != 0) | (np.arange(200) % 5 == 0)  # a rare class
    features, labels = features[kept], labels[kept]
    weights = "balanced" if balanced else None
    own = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight=weights))
    own.fit(features.astype(np.float64), labels)
    head = fitted(
        with_defaults(HeadConfig, kind="logreg", C=0.3), features, labels, classes, balanced
    )
    new, _ = drawn(1, 300, classes)
    np.testing.assert_allclose(
        probabilities(head, new), own.predict_proba(new.astype(np.float64)), atol=1e-5
    )


@pytest.mark.parametrize("gamma", ["scale", 0.02])
@pytest.mark.parametrize("balanced", [False, True])
def test_svm_gives_scikit_learns_margins(gamma: Any, balanced: bool) -> None:
    features, labels = drawn(0, 200)
    weights = "balanced" if balanced else None
    own = make_pipeline(
        StandardScaler(), OneVsRestClassifier(SVC(C=2.0, gamma=gamma, class_weight=weights))
    )
    own.fit(features.astype(np.float64), labels)
    head = fitted(
        with_defaults(HeadConfig, kind="svm", C=2.0, gamma=gamma),
        features,
        labels,
        balanced=balanced,
    )
    assert len(head.get_buffer("vectors")) < len(features) or balanced
    new, _ = drawn(1, 300)
    margins = own.decision_function(new.astype(np.float64))
    np.testing.assert_allclose(answers(head, new) / SHARPNESS["svm"], margins, atol=1e-4)
    assert (answers(head, new).argmax(1) == own.predict(new.astype(np.float64))).all()


@pytest.mark.parametrize("weights", ["distance", "uniform"])
def test_knn_gives_scikit_learns_probabilities_smoothed(weights: str) -> None:
    features, labels = drawn(0, 200)
    own = make_pipeline(StandardScaler(), KNeighborsClassifier(7, weights=weights))
    own.fit(features.astype(np.float64), labels)
    head = fitted(
        with_defaults(HeadConfig, kind="knn", neighbours=7, weights=weights), features, labels
    )
    new, _ = drawn(1, 300)
    new[:5] = features[:5]  # at no distance from a neighbour
    expected = (7 * own.predict_proba(new.astype(np.float64)) + 1 / CLASSES) / 8
    np.testing.assert_allclose(probabilities(head, new), expected, atol=1e-4)


def test_knn_with_fewer_images_than_neighbours_asks_all() -> None:
    features, labels = drawn(0, 3)
    head = fitted(
        with_defaults(HeadConfig, kind="knn", neighbours=5, weights="uniform"), features, labels
    )
    expected = (np.array([1, 1, 1, 0]) + 1 / 4) / 4
    np.testing.assert_allclose(probabilities(head, features)[0], expected, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("depth", [None, 3])
def test_forest_gives_scikit_learns_probabilities_smoothed(classes: int, depth: int | None) -> None:
    features, labels = drawn(0, 200, classes)
    own = RandomForestClassifier(30, max_depth=depth, class_weight="balanced", random_state=3)
    own.fit(features, labels)
    cfg = with_defaults(HeadConfig, kind="forest", trees=30, depth=depth)
    head = fitted(cfg, features, labels, classes, balanced=True)
    new, _ = drawn(1, 300, classes)
    expected = (30 * own.predict_proba(new) + 1 / classes) / 31
    np.testing.assert_allclose(probabilities(head, new), expected, atol=1e-6)


def test_forest_decides_at_its_thresholds_as_scikit_learn_does() -> None:
    # Neighbouring float32, half-way between which no float32 lies: rounding up would swap sides.
    low = np.float32(1.0)
    steps = [low]
    for _ in range(63):
        steps.append(np.nextafter(steps[-1], np.float32(2)))
    features = np.repeat(np.array(steps, np.float32)[:, None], FEATURES, axis=1)
    labels = np.arange(64) % 2
    own = RandomForestClassifier(10, random_state=3).fit(features, labels)
    head = fitted(with_defaults(HeadConfig, kind="forest", trees=10), features, labels, classes=2)
    expected = (10 * own.predict_proba(features) + 1 / 2) / 11
    np.testing.assert_allclose(probabilities(head, features), expected, atol=1e-6)


@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_a_class_without_images_is_never_said(kind: str) -> None:
    features, labels = drawn(0, 90, classes=3)
    labels = np.array([0, 1, 3])[labels]
    head = fitted(with_defaults(HeadConfig, kind=kind), features, labels)
    new = answers(head, drawn(1, 100)[0])
    assert np.isfinite(new).all()
    assert set(new.argmax(1)) == {0, 1, 3}


@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_one_class_alone_is_an_error_in_one_line(kind: str) -> None:
    features, labels = drawn(0, 20)
    with pytest.raises(BcdError, match=f"head={kind}: fitting requires images of at least two"):
        fitted(with_defaults(HeadConfig, kind=kind), features, labels * 0)


@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_before_fitting_no_class_is_favoured(kind: str) -> None:
    head = make_head(FEATURES, CLASSES, with_defaults(HeadConfig, kind=kind))
    assert isinstance(head, FittedHead)
    np.testing.assert_allclose(probabilities(head, drawn(0, 5)[0]), 1 / CLASSES)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_a_fitted_head_is_its_state_dict(kind: str, assign: bool) -> None:
    features, labels = drawn(0, 100)
    head = fitted(with_defaults(HeadConfig, kind=kind), features, labels)
    other = fitted(with_defaults(HeadConfig, kind=kind), *drawn(1, 60))
    fresh = make_head(FEATURES, CLASSES, with_defaults(HeadConfig, kind=kind))
    for target in (fresh, other):  # of no length yet, and of another
        target.load_state_dict(head.state_dict(), assign=assign)
        assert isinstance(target, FittedHead)
        np.testing.assert_array_equal(answers(target, features), answers(head, features))


@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_a_state_dict_of_other_classes_or_features_is_refused(kind: str) -> None:
    state = fitted(with_defaults(HeadConfig, kind=kind), *drawn(0, 60)).state_dict()
    # A forest's features and a neighbour's classes are numbers, not lengths.
    sizes = {"forest": [(FEATURES, 5)], "knn": [(21, CLASSES)]}
    for size in sizes.get(kind, [(FEATURES, 5), (21, CLASSES)]):
        with pytest.raises(RuntimeError, match="size mismatch"):
            make_head(*size, with_defaults(HeadConfig, kind=kind)).load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        make_head(FEATURES, CLASSES, with_defaults(HeadConfig, kind=kind)).load_state_dict({})


@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_what_is_fitted_while_validating_can_be_loaded_into(kind: str) -> None:
    with torch.inference_mode():
        head = fitted(with_defaults(HeadConfig, kind=kind), *drawn(0, 60))
    head.load_state_dict({name: value.clone() for name, value in head.state_dict().items()})


@pytest.mark.parametrize("kind", FITTED_HEADS)
def test_half_precision_around_a_fitted_head_changes_nothing(kind: str) -> None:
    features, labels = drawn(0, 100)
    head = fitted(with_defaults(HeadConfig, kind=kind), features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        around = answers(head, features)
    np.testing.assert_array_equal(around, answers(head, features))


@pytest.mark.parametrize(
    ("head", "model", "line"),
    [
        ({"kind": "svn"}, {}, r"head.kind=svn: choose .*did you mean 'svm'"),
        ({"kind": "svm", "C": 0.0}, {}, r"head.C=0.0: must be above 0"),
        ({"kind": "svm", "gamma": "auto"}, {}, r"head.gamma=auto: must be 'scale' or a number"),
        ({"kind": "mlp", "dropout": 1.0}, {}, r"head.dropout=1.0: must be at least 0"),
        ({"kind": "knn", "weights": "near"}, {}, r"head.weights=near: choose"),
        (
            {"kind": "knn"},
            {"class_weights": "balanced"},
            r"head=knn does not support class weights",
        ),
        ({"kind": "svm"}, {"unfreeze": 2}, r"model.unfreeze=2: head=svm is fitted on frozen"),
        ({"kind": "forest"}, {"unfreeze": "all"}, r"model.unfreeze=all: head=forest is fitted"),
    ],
)
def test_an_invalid_head_is_an_error_in_one_line(
    head: Any, model: Any, line: str, tmp_path: Path
) -> None:
    cfg = train_config(tmp_path)
    with pytest.raises(ConfigError, match=line) as caught:
        replace(
            cfg,
            head=with_defaults(HeadConfig, **head),
            model=with_defaults(ModelConfig, **model),
        )
    assert "\n" not in str(caught.value)
