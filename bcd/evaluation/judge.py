"""The judge: what is decided on val about a model's answers, once, and applied to all others.

It holds the temperature, from which probability on a class is in a picture's set, at which
probability of malignancy a picture is called so, and when to leave the answer to a person.

How unlike the training pictures a picture is, is the length of what its features have outside the
subspace that holds most of the training features' variance. Tried on real smears against noise,
plain colour, text, scenery, drawn smears, defocused and grey smears, over twelve splits, it missed
least at the same share of real test pictures referred. The nearest training pictures in cosine
distance missed drawn smears, Mahalanobis' distance inside the subspace missed text and plain
colour, and the highest probability missed nearly everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcd.config import JudgeConfig
from bcd.evaluation.bootstrap import named_groups
from bcd.evaluation.calibration import fit_temperature
from bcd.evaluation.collect import Answers, softmax
from bcd.evaluation.conformal import conformal_threshold
from bcd.evaluation.metrics import threshold_for_sensitivity

UNSURE, UNLIKE = "unsure", "unlike the training pictures"

_DIRECTIONS = 64  # of the subspace; an eighth of small feature vectors
_ROWS = 1024  # features at a time, so that memory stays small
MOST = 4000  # training pictures from which the subspace is found

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Subspace:
    """Where the training features lie.

    Attributes:
        mean: Of the training features, float32 (d,).
        basis: Orthonormal rows, float32 (k, d).
        limit: Distance above which a picture is unlike the training pictures.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    limit: float = np.inf

    def distance(self, features: Floats) -> NDArray[np.float64]:
        """Length (n,) of what features (n, d) have outside the subspace."""
        parts = [self._outside(features[i : i + _ROWS]) for i in range(0, len(features), _ROWS)]
        return np.concatenate([np.empty(0), *parts])

    def _outside(self, features: Floats) -> NDArray[np.float64]:
        centred = features.astype(np.float64) - self.mean
        inside = centred @ self.basis.T.astype(np.float64)
        rest = np.square(centred).sum(axis=1) - np.square(inside).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(rest, 0)))


@dataclass(frozen=True)
class Judge:
    """What was decided on val.

    Attributes:
        temperature: Divides the logits.
        set_from: Probability from which on a class is in a picture's set.
        coverage: Share of sets that were to hold the true class.
        malignant_from: Probability of malignancy from which on a picture is called malignant; None
            where no class is benign.
        sensitivity: What that threshold was to reach.
        unsure_below: Highest probability below which a picture is referred.
        subspace: Where training features lie; None where unknown.
        prevalence: Share of malignant that predictive values are given for; None: as found.
    """

    temperature: float = 1.0
    set_from: float = 0.0
    coverage: float = 0.95
    malignant_from: float | None = None
    sensitivity: float = 0.995
    unsure_below: float = 0.0
    subspace: Subspace | None = None
    prevalence: float | None = None

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated probabilities (n, classes) of logits (n, classes)."""
        return softmax(np.asarray(logits, np.float64) / self.temperature)

    def unlikeness(self, features: Floats) -> NDArray[np.float64]:
        """How unlike the training pictures pictures are, (n,); above 1 too unlike, 0 if unknown.

        Args:
            features: What the head was given, (n, d).
        """
        if self.subspace is None:
            return np.zeros(len(features))
        return self.subspace.distance(features) / max(self.subspace.limit, 1e-12)

    def reasons(self, probabilities: Floats, unlikeness: Floats) -> list[str]:
        """Why each picture should go to a person; empty where it need not.

        Args:
            probabilities: Calibrated, (n, classes).
            unlikeness: (n,).
        """
        unsure = probabilities.max(axis=1) < self.unsure_below
        unlike = unlikeness > 1
        return [UNLIKE if u else UNSURE if s else "" for u, s in zip(unlike, unsure, strict=True)]

    def answer(self, logits: Floats, features: Floats) -> tuple[NDArray[np.float64], list[str]]:
        """Calibrated probabilities (n, classes), and why each picture should go to a person.

        Args:
            logits: (n, classes).
            features: What the head was given, (n, d).
        """
        probabilities = self.probabilities(logits)
        return probabilities, self.reasons(probabilities, self.unlikeness(features))

    def to_plain(self) -> dict[str, Any]:
        """Numbers and tensors, as they go into a checkpoint."""
        plain = {**vars(self), "subspace": None}
        if self.subspace is not None:
            plain["subspace"] = {
                "mean": torch.from_numpy(self.subspace.mean),
                "basis": torch.from_numpy(self.subspace.basis),
                "limit": self.subspace.limit,
            }
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Judge:
        """The judge of a checkpoint; one that changes and refers nothing where it has none."""
        if plain is None:
            return cls()
        space = plain["subspace"]
        if space is not None:
            space = Subspace(space["mean"].numpy(), space["basis"].numpy(), float(space["limit"]))
        return cls(**{**plain, "subspace": space})


def fit_judge(
    cfg: JudgeConfig,
    val: Answers,
    trained: Floats,
    benign: int | None,
    groups: Sequence[str] = (),
) -> Judge:
    """Decides everything on val.

    Args:
        cfg: The `judge` group.
        val: Answers to the val part.
        trained: Features of training pictures, (n, d); empty where there are none.
        benign: Index of the benign class.
        groups: What each of val's pictures belongs to; a group counts as one picture.
    """
    temperature = fit_temperature(val.logits, val.labels, effective_groups(groups))
    probabilities = softmax(np.asarray(val.logits, np.float64) / temperature)
    malignant_from = None
    if benign is not None:
        ill = 1 - probabilities[:, benign]
        malignant_from = threshold_for_sensitivity(ill, val.labels != benign, cfg.sensitivity)
    subspace = find_subspace(trained)
    if subspace is not None:
        limit = float(np.quantile(subspace.distance(val.features), 1 - cfg.unlike))
        subspace = Subspace(subspace.mean, subspace.basis, limit)
    return Judge(
        temperature,
        conformal_threshold(probabilities, val.labels, cfg.coverage),
        cfg.coverage,
        malignant_from,
        cfg.sensitivity,
        float(np.quantile(probabilities.max(axis=1), cfg.unsure)),
        subspace,
        cfg.prevalence,
    )


def effective_groups(groups: Sequence[str]) -> float | None:
    """How many groups of equal size would be worth these; None where there are none."""
    named = named_groups(groups) if groups else None
    if named is None:
        return None
    sizes = np.unique(named, return_counts=True)[1]
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def find_subspace(features: Floats) -> Subspace | None:
    """The directions in which features (n, d) vary most; None where there are too few."""
    n, d = features.shape
    directions = min(_DIRECTIONS, d // 8, n // 4)
    if directions < 1:
        return None
    given = torch.from_numpy(np.ascontiguousarray(features, np.float32))
    mean = given.mean(dim=0)
    with torch.random.fork_rng(devices=[]):  # the search starts from random directions
        torch.manual_seed(0)
        _, _, found = torch.svd_lowrank(given - mean, directions, niter=4)
    return Subspace(mean.numpy(), found.T.contiguous().numpy())


def referred(reasons: Sequence[str]) -> NDArray[np.bool_]:
    """Which pictures go to a person, (n,)."""
    return np.asarray([bool(reason) for reason in reasons], bool)
