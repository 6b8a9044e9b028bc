"""The heads that scikit-learn fits, as tensors that torch computes with.

Tests compare the results of each with those of scikit-learn's own estimator, up to float32.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcd.config.head import HeadConfig
from bcd.models.heads.base import Arrays, FittedHead

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

# Factors from margins or log votes to logits, so that the decision policy's temperature is near 1.
# About one over the temperature that fitted test best, on frozen MobileNetV2 features of real
# smears with blocks of 40 files kept together, seeds 0 to 2.
SHARPNESS = {"svm": 3.0, "knn": 1.5, "forest": 2.0}

# Logit of a class without training images.
_ABSENT = -30.0


class LogregHead(FittedHead):
    """Multinomial logistic regression; its weights include the standardization of features."""

    def __init__(self, in_features: int, out_features: int, cfg: HeadConfig) -> None:
        super().__init__(in_features, out_features, cfg)
        self._declare("weight", out_features, in_features)
        self._declare("bias", out_features)

    def _learn(self, features: Floats, labels: Labels, balanced: bool, seed: int) -> Arrays:
        from sklearn.linear_model import LogisticRegression

        mean, scale = _moments(features)
        weights = "balanced" if balanced else None
        model = LogisticRegression(C=self.cfg.C, class_weight=weights, max_iter=1000)
        model.fit((features - mean) / scale, labels)
        found, offset = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # a single row, for the second class against the first
            found = np.concatenate([np.zeros_like(found), found])
            offset = np.concatenate([np.zeros_like(offset), offset])
        weight = np.zeros((self.out_features, self.in_features))
        bias = np.full(self.out_features, _ABSENT)
        weight[model.classes_] = found / scale
        bias[model.classes_] = offset - (found / scale) @ mean
        return {"weight": weight, "bias": bias}

    def _answer(self, features: Tensor) -> Tensor:
        return torch.nn.functional.linear(
            features, self.get_buffer("weight"), self.get_buffer("bias")
        )


class SvmHead(FittedHead):
    """Support vector machines with an RBF kernel on standardized features, one per class.

    A class's logit is its margin against all others, times its `SHARPNESS`.
    """

    def __init__(self, in_features: int, out_features: int, cfg: HeadConfig) -> None:
        super().__init__(in_features, out_features, cfg)
        self._declare("mean", in_features)
        self._declare("scale", in_features, fill=1)
        self._declare("gamma")
        self._declare("vectors", None, in_features)
        self._declare("dual", out_features, None)
        self._declare("bias", out_features)

    def _learn(self, features: Floats, labels: Labels, balanced: bool, seed: int) -> Arrays:
        from sklearn.svm import SVC

        mean, scale = _moments(features)
        points = (features - mean) / scale
        gamma = self.cfg.gamma
        gamma = 1 / (points.shape[1] * points.var()) if gamma == "scale" else float(gamma)
        weights = "balanced" if balanced else None
        dual = np.zeros((self.out_features, len(points)))
        bias = np.full(self.out_features, _ABSENT)

        def fit(label: int) -> None:
            model = SVC(C=self.cfg.C, gamma=gamma, class_weight=weights, cache_size=400)
            model.fit(points, labels == label)
            dual[label, model.support_] = model.dual_coef_[0]
            bias[label] = model.intercept_[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # libsvm releases the GIL
            list(pool.map(fit, np.unique(labels).tolist()))
        used = dual.any(axis=0)
        return {
            "mean": mean,
            "scale": scale,
            "gamma": np.asarray(gamma),
            "vectors": points[used],
            "dual": dual[:, used],
            "bias": bias,
        }

    def _answer(self, features: Tensor) -> Tensor:
        points = _standardized(self, features)
        squares = _squared_distances(points, self.get_buffer("vectors"))
        kernel = torch.exp(-self.get_buffer("gamma") * squares)
        margins = kernel @ self.get_buffer("dual").T + self.get_buffer("bias")
        return SHARPNESS["svm"] * margins


class KnnHead(FittedHead):
    """Votes of the nearest training images, by distance of standardized features."""

    def __init__(self, in_features: int, out_features: int, cfg: HeadConfig) -> None:
        super().__init__(in_features, out_features, cfg)
        self._declare("mean", in_features)
        self._declare("scale", in_features, fill=1)
        self._declare("points", None, in_features)
        self._declare("labels", None, dtype=torch.int64)

    def _learn(self, features: Floats, labels: Labels, balanced: bool, seed: int) -> Arrays:
        mean, scale = _moments(features)
        return {
            "mean": mean,
            "scale": scale,
            "points": (features - mean) / scale,
            "labels": labels,
        }

    def _answer(self, features: Tensor) -> Tensor:
        points, known = _standardized(self, features), self.get_buffer("points")
        count = min(self.cfg.neighbours, len(known))
        near = _squared_distances(points, known).topk(count, largest=False).indices
        # Computed again, because the fast formula is imprecise for small distances.
        gaps = torch.linalg.vector_norm(points[:, None] - known[near], dim=2)
        weights = torch.ones_like(gaps)
        if self.cfg.weights == "distance":
            same = gaps == 0
            weights = torch.where(same.any(1, keepdim=True), same.to(gaps.dtype), 1 / gaps)
        weights = weights / weights.sum(1, keepdim=True)
        votes = features.new_zeros(features.shape[0], self.out_features)
        votes = votes.scatter_add(1, self.get_buffer("labels")[near], weights)
        return SHARPNESS["knn"] * _log_of_votes(votes, count)


class ForestHead(FittedHead):
    """The mean class shares of the leaves of many trees.

    The nodes of all trees are in one table. A leaf is its own child, so that every image takes as
    many steps as the deepest tree has.

    Attributes:
        steps: Their number, set while the head is exported; None to read it from the buffer.
    """

    steps: int | None = None

    def __init__(self, in_features: int, out_features: int, cfg: HeadConfig) -> None:
        super().__init__(in_features, out_features, cfg)
        self._declare("roots", None, dtype=torch.int64)
        self._declare("below", None, 2, dtype=torch.int64)
        self._declare("feature", None, dtype=torch.int64)
        self._declare("threshold", None)
        self._declare("value", None, out_features)
        self._declare("depth", dtype=torch.int64)

    def _learn(self, features: Floats, labels: Labels, balanced: bool, seed: int) -> Arrays:
        from sklearn.ensemble import RandomForestClassifier

        model = RandomForestClassifier(
            self.cfg.trees,
            max_depth=self.cfg.depth,
            min_samples_leaf=self.cfg.leaf,
            class_weight="balanced" if balanced else None,
            random_state=seed,
            n_jobs=-1,
        )
        model.fit(features, labels)
        trees = [estimator.tree_ for estimator in model.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
        nodes = [_nodes(tree, root) for tree, root in zip(trees, roots, strict=True)]
        below, feature, threshold, held = (
            np.concatenate(part) for part in zip(*nodes, strict=True)
        )
        value = np.zeros((len(held), self.out_features))
        value[:, model.classes_] = held / held.sum(axis=1, keepdims=True)
        return {
            "roots": roots,
            "below": below,
            "feature": feature,
            "threshold": threshold,
            "value": value,
            "depth": np.asarray(max(tree.max_depth for tree in trees)),
        }

    def _answer(self, features: Tensor) -> Tensor:
        roots, below = self.get_buffer("roots"), self.get_buffer("below")
        feature, threshold = self.get_buffer("feature"), self.get_buffer("threshold")
        node = roots.expand(features.shape[0], -1)
        for _ in range(int(self.get_buffer("depth")) if self.steps is None else self.steps):
            right = features.gather(1, feature[node]) > threshold[node]
            node = below[node, right.long()]
        shares = self.get_buffer("value")[node].sum(1) / max(len(roots), 1)
        return SHARPNESS["forest"] * _log_of_votes(shares, len(roots))


def _nodes(tree: Any, root: int) -> tuple[NDArray[Any], ...]:
    """Children (n, 2) counted from `root`, feature, threshold and class shares (n, classes)."""
    own = np.arange(tree.node_count)
    leaf = tree.children_left < 0
    below = np.stack([tree.children_left, tree.children_right], axis=1)
    below = np.where(leaf[:, None], own[:, None], below) + root
    # A float32 is at most the threshold exactly if it is at most the next lower float32.
    low = tree.threshold.astype(np.float32)
    low = np.where(low > tree.threshold, np.nextafter(low, np.float32(-np.inf)), low)
    return below, np.where(leaf, 0, tree.feature), low, tree.value[:, 0]


def _moments(features: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (F,) and standard deviation (F,) of features (n, F); 1 for constant features."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    return scaler.mean_, scaler.scale_


def _standardized(head: FittedHead, features: Tensor) -> Tensor:
    standard: Tensor = (features - head.get_buffer("mean")) / head.get_buffer("scale")
    return standard


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (n, m) of points (n, F) and (m, F)."""
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp(min=0)


def _log_of_votes(shares: Tensor, voters: int) -> Tensor:
    """Log of vote shares (N, classes), with one more voter split equally among classes."""
    return torch.log((voters * shares + 1 / shares.shape[1]) / (voters + 1))
