"""The decision policy: fixed once, on val, and applied to all other answers of the model.

It holds the temperature, from which probability on a class is in an image's set, at which
probability of malignancy an image is called so, and when to leave the answer to a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.schema import DecisionConfig
from bcd.errors import BcdError
from bcd.evaluation.answers import Answers, check_finite, softmax
from bcd.evaluation.bootstrap import Groups, effective_groups
from bcd.evaluation.calibration import fit_temperature
from bcd.evaluation.conformal import conformal_threshold
from bcd.evaluation.ood import Subspace, find_subspace
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, UNREADABLE, Prediction
from bcd.evaluation.thresholds import ONE_BY_ONE, Scope, lower_limit, sensitive_threshold

LOW_CONFIDENCE, OOD, DISAGREES = "low confidence", "out of distribution", "threshold disagrees"

Floats = NDArray[np.floating[Any]]
Reasons = tuple[str, ...]


@dataclass(frozen=True)
class Decisions:
    """What is made of a network's answers to n images.

    Attributes:
        probabilities: Calibrated, (n, classes); NaN where the answer is not finite.
        malignant: Whether each is called malignant; None where that is not decided.
        reasons: Why each should go to a person; empty where it need not.
    """

    probabilities: NDArray[np.float64]
    malignant: list[bool | None]
    reasons: list[Reasons]

    def prediction(self, index: int, path: str, label: str = "") -> Prediction:
        """What is said of one image; no class and no probabilities if that is not finite.

        Args:
            index: Of the image, from 0 to n - 1.
            path: Its path.
            label: Its true class; empty where unknown.
        """
        reasons = self.reasons[index]
        row = () if NOT_FINITE in reasons else tuple(map(float, self.probabilities[index]))
        return Prediction(path, label, row, refer=reasons, malignant=self.malignant[index])


@dataclass(frozen=True)
class DecisionPolicy:
    """What was decided on val.

    Attributes:
        temperature: Divides the logits.
        set_from: Probability from which on a class is in an image's set.
        coverage: Share of sets that were to hold the true class.
        covered: Share that val is large enough to promise.
        malignant_from: Probability of malignancy from which on an image is called malignant; None
            where no class is benign.
        benign: Index of the benign class; None where there is none.
        sensitivity: What that threshold was to reach.
        confidence: How sure it was to be.
        sensitivity_kept: What val is large enough to promise with that confidence; 0: nothing.
        malignant_units: Independent malignant images of val, or groups.
        units: Independent images of val, or groups.
        by_groups: Whether it is groups that were counted.
        about: What images the promises are about, in words.
        unsure_below: Highest probability below which an image is referred.
        subspace: Where training features lie; None where unknown.
        prevalence: Share of malignant that predictive values are given for; None: as found.
        calibrated: Whether anything was decided at all; if not, every image is referred.
    """

    temperature: float = 1.0
    set_from: float = 0.0
    coverage: float = 0.95
    covered: float = 0.0
    malignant_from: float | None = None
    benign: int | None = None
    sensitivity: float = 0.995
    confidence: float = 0.9
    sensitivity_kept: float = 0.0
    malignant_units: int = 0
    units: int = 0
    by_groups: bool = False
    about: str = ""
    unsure_below: float = 0.0
    subspace: Subspace | None = None
    prevalence: float | None = None
    calibrated: bool = True

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated probabilities (n, classes) of logits (n, classes); NaN for any not finite."""
        finite = np.isfinite(logits).all(axis=1, keepdims=True)
        scaled = np.where(finite, np.asarray(logits, np.float64), 0) / self.temperature
        return np.where(finite, softmax(scaled), np.nan)

    def ood_score(self, features: Floats) -> NDArray[np.float64]:
        """How unlike the training images images are, (n,); above 1 too unlike, 0 if unknown.

        Args:
            features: What the head was given, (n, d); NaN comes of any that is not finite.
        """
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(features).all(axis=1))
        apart = np.zeros(len(features))
        if self.subspace is not None:
            usable = np.where(finite[:, None], features, 0)
            apart = self.subspace.distance(usable) / max(self.subspace.limit, 1e-12)
        return np.where(finite, apart, np.nan)

    def malignant(self, probabilities: Floats) -> NDArray[np.bool_] | None:
        """Which images the threshold calls malignant, (n,); None where there is no threshold.

        Args:
            probabilities: Calibrated, (n, classes).
        """
        if self.benign is None or self.malignant_from is None:
            return None
        return np.asarray(p_malignant(probabilities, self.benign) >= self.malignant_from)

    def reasons(self, probabilities: Floats, ood_score: Floats) -> list[Reasons]:
        """All reasons why each image should go to a person; empty where it need not.

        Args:
            probabilities: Calibrated, (n, classes).
            ood_score: (n,).
        """
        known = np.isfinite(probabilities).all(axis=1)
        finite: NDArray[np.bool_] = np.logical_and(known, np.isfinite(ood_score))
        said = self.malignant(probabilities)
        disagrees = np.zeros(len(probabilities), bool)
        if said is not None:
            disagrees = said != (probabilities.argmax(axis=1) != self.benign)
        found = {
            NOT_FINITE: ~finite,
            LOW_CONFIDENCE: finite & (probabilities.max(axis=1) < self.unsure_below),
            OOD: finite & (ood_score > 1),
            DISAGREES: finite & disagrees,
            UNCALIBRATED: np.full(len(probabilities), not self.calibrated),
        }
        return [tuple(name for name in found if found[name][i]) for i in range(len(probabilities))]

    def answer(self, logits: Floats, features: Floats) -> Decisions:
        """Calibrates answers, calls them malignant or not, and says which go to a person and why.

        Args:
            logits: (n, classes).
            features: What the head was given, (n, d).
        """
        probabilities = self.probabilities(logits)
        reasons = self.reasons(probabilities, self.ood_score(features))
        said = self.malignant(probabilities)
        known: list[bool | None] = [None] * len(reasons)
        if said is not None:
            pairs = zip(said, reasons, strict=True)
            known = [None if NOT_FINITE in why else bool(ill) for ill, why in pairs]
        return Decisions(probabilities, known, reasons)

    def unread(self, path: str, error: str) -> Prediction:
        """What is said of an image that could not be read.

        Args:
            path: Its path.
            error: Why.
        """
        reasons = (UNREADABLE,) if self.calibrated else (UNREADABLE, UNCALIBRATED)
        return Prediction(path, "", (), error, reasons)

    def to_plain(self) -> dict[str, Any]:
        """Numbers and tensors, as they go into a checkpoint."""
        import torch

        plain = {**vars(self), "subspace": None}
        if self.subspace is not None:
            plain["subspace"] = {
                "mean": torch.from_numpy(self.subspace.mean),
                "basis": torch.from_numpy(self.subspace.basis),
                "limit": self.subspace.limit,
            }
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> DecisionPolicy:
        """The policy of a checkpoint; where it has none, one that changes nothing and refers all.

        Raises:
            LookupError: Something is wanting; nothing is made up in its place.
            ValueError: The temperature or the threshold is not a number to calculate with.
        """
        if plain is None:
            return cls(calibrated=False)
        space = plain["subspace"]
        if space is not None:
            space = Subspace(space["mean"].numpy(), space["basis"].numpy(), float(space["limit"]))
        decided = {field.name: plain[field.name] for field in fields(cls)}
        policy = cls(**{**decided, "subspace": space})
        numbers = (policy.temperature, policy.set_from, policy.malignant_from or 0.0)
        if not (np.isfinite(numbers).all() and policy.temperature > 0):
            raise ValueError(f"temperature and thresholds are {numbers}")
        return policy


def fit_policy(
    cfg: DecisionConfig,
    val: Answers,
    trained: Floats,
    benign: int | None,
    scope: Scope = ONE_BY_ONE,
) -> DecisionPolicy:
    """Decides everything on val.

    Args:
        cfg: The `decision` group.
        val: Answers to the val part.
        trained: Features of training images, (n, d); empty where there are none.
        benign: Index of the benign class.
        scope: Whether val's groups count as one image each, and what promises are about.

    Raises:
        BcdError: An answer or a feature is not finite.
    """
    check_finite(val)
    if not np.isfinite(trained).all():
        raise BcdError("features of training images are not finite: the weights are of no use")
    groups = scope.groups
    temperature = fit_temperature(val.logits, val.labels, effective_groups(groups))
    probabilities = softmax(np.asarray(val.logits, np.float64) / temperature)
    sets = conformal_threshold(probabilities, val.labels, cfg.coverage, groups)
    decided: dict[str, Any] = {}
    if benign is not None:
        found = sensitive_threshold(
            p_malignant(probabilities, benign), val.labels != benign, cfg.sensitivity,
            cfg.confidence, groups,
        )  # fmt: skip
        decided = {
            "malignant_from": found.threshold,
            "sensitivity_kept": found.promised,
            "malignant_units": found.units,
        }
    return DecisionPolicy(
        temperature=temperature,
        set_from=sets.value,
        coverage=cfg.coverage,
        covered=1 - sets.share,
        benign=benign,
        sensitivity=cfg.sensitivity,
        confidence=cfg.confidence,
        units=sets.units,
        by_groups=groups is not None,
        about=scope.about,
        unsure_below=_lowest_usual(probabilities.max(axis=1), cfg.low_confidence, groups),
        subspace=_limited(find_subspace(trained), val.features, cfg.ood, groups),
        prevalence=cfg.prevalence,
        **decided,
    )


def p_malignant(probabilities: Floats, benign: int) -> Floats:
    """Probability (n,) of malignancy of probabilities (n, classes)."""
    return np.asarray(1 - probabilities[:, benign])


def _lowest_usual(scores: Floats, share: float, groups: Groups | None) -> float:
    """Score below which an image is referred; where none is to be, there is no such score."""
    return lower_limit(scores, share, groups).value if share > 0 else -np.inf


def _limited(
    subspace: Subspace | None, features: Floats, share: float, groups: Groups | None
) -> Subspace | None:
    """The subspace with the distance above which an image is referred."""
    if subspace is None:
        return None
    limit = -_lowest_usual(-subspace.distance(features), share, groups)
    return Subspace(subspace.mean, subspace.basis, limit)


def referred(reasons: Sequence[Reasons]) -> NDArray[np.bool_]:
    """Which images go to a person, (n,)."""
    return np.asarray([bool(reason) for reason in reasons], bool)


def count_reasons(reasons: Sequence[Reasons]) -> dict[str, int]:
    """How many images each reason sends to a person; an image may have several."""
    return dict(sorted(Counter(name for why in reasons for name in why).items()))
