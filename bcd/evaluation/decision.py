"""The decision policy, which is fitted once and then applied to all other outputs of the model.

It has the temperature, the thresholds of prediction sets and of malignant, and limits for referral.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.evaluation.calibration import calibrated_probabilities, check_priors
from bcd.evaluation.conformal import prediction_sets
from bcd.evaluation.ood import Subspace
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED, UNREADABLE, Prediction

LOW_CONFIDENCE, OOD, DISAGREES = "low confidence", "out of distribution", "threshold disagrees"
MEMBERS_DISAGREE = "members disagree"
# As where the network gets the white cells of an image and none was found.
UNDECIDED = "all classes equally probable"

Floats = NDArray[np.floating[Any]]
Reasons = tuple[str, ...]


@dataclass(frozen=True)
class Decisions:
    """Decisions about n images.

    Attributes:
        probabilities: Calibrated, (n, classes); NaN if the output is not finite.
        malignant: Whether each image is called malignant; None if that is not decided.
        reasons: Reasons for referring each image to a person; empty if it is not referred.
        sets: Which classes are in the prediction set of each image, (n, classes); none if the
            output is not finite.
        ood_scores: Above 1 is out of distribution, (n,); 0 if unknown, NaN if not finite.
    """

    probabilities: NDArray[np.float64]
    malignant: list[bool | None]
    reasons: list[Reasons]
    sets: NDArray[np.bool_]
    ood_scores: NDArray[np.float64]

    def prediction(self, index: int, path: str, label: str = "") -> Prediction:
        """The prediction for one image; it has no probabilities if the output is not finite.

        Args:
            index: Of the image, from 0 to n - 1.
            path: Its path.
            label: Its true class; empty if unknown.
        """
        reasons = self.reasons[index]
        decided = self.malignant[index]
        if NOT_FINITE in reasons:
            return Prediction(path, label, (), refer=reasons, malignant=decided)
        return Prediction(
            path,
            label,
            tuple(map(float, self.probabilities[index])),
            refer=reasons,
            malignant=decided,
            prediction_set=tuple(map(int, np.flatnonzero(self.sets[index]))),
            ood_score=float(self.ood_scores[index]),
        )


@dataclass(frozen=True)
class DecisionPolicy:
    """Everything that was fitted on val.

    Attributes:
        temperature: Divides the logits.
        priors: Class shares of train that then divide the probabilities; None: no prior correction.
        set_threshold: Probability from which a class is in the prediction set.
        target_coverage: Requested share of prediction sets that contain the true class.
        guaranteed_coverage: Share that val is large enough to guarantee.
        malignant_threshold: Probability from which an image is called malignant, or None.
        benign: Index of the benign class; None if there is none.
        target_sensitivity: Requested sensitivity at that threshold.
        confidence: Requested confidence of the guarantee.
        guaranteed_sensitivity: What val is large enough to guarantee with it; 0 if nothing.
        n_malignant_units: Independent malignant images of val, or groups with malignant images.
        n_units: Independent images of val, or groups.
        by_groups: Whether the units are groups.
        by_overlaps: Whether these are images that overlap, because no group is known.
        population: What images the guarantees apply to, in words.
        confidence_threshold: Maximum probability below which an image is referred.
        disagreement_limit: Disagreement of an ensemble's members above which an image is referred.
        subspace: Of the descriptors of own images; None if unknown.
        prevalence: Share of malignant images for predictive values; None: as in the images.
        calibrated: Whether anything was fitted; if not, every image is referred.
        expectation: What is expected of new answers, as `Expectation.to_plain`; None if unknown.
    """

    temperature: float = 1.0
    priors: tuple[float, ...] | None = None
    set_threshold: float = 0.0
    target_coverage: float = 0.95
    guaranteed_coverage: float = 0.0
    malignant_threshold: float | None = None
    benign: int | None = None
    target_sensitivity: float = 0.995
    confidence: float = 0.9
    guaranteed_sensitivity: float = 0.0
    n_malignant_units: int = 0
    n_units: int = 0
    by_groups: bool = False
    by_overlaps: bool = False
    population: str = ""
    confidence_threshold: float = 0.0
    disagreement_limit: float = np.inf
    subspace: Subspace | None = None
    prevalence: float | None = None
    calibrated: bool = True
    expectation: Mapping[str, Any] | None = None

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated probabilities (n, classes) of logits (n, classes); NaN if not finite."""
        finite = np.isfinite(logits).all(axis=1, keepdims=True)
        usable = np.where(finite, np.asarray(logits, np.float64), 0)
        found = calibrated_probabilities(usable, self.temperature, self.priors)
        return np.where(finite, found, np.nan)

    def ood_score(self, descriptors: Floats) -> NDArray[np.float64]:
        """Out-of-distribution score (n,); above 1 is out of distribution, 0 if unknown.

        Args:
            descriptors: (n, d); the score is NaN if any number is not finite.
        """
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(descriptors).all(axis=1))
        distance = np.zeros(len(descriptors))
        if self.subspace is not None:
            usable = np.where(finite[:, None], descriptors, 0)
            distance = self.subspace.distance(usable) / max(self.subspace.limit, 1e-12)
        return np.where(finite, distance, np.nan)

    def malignant(self, probabilities: Floats) -> NDArray[np.bool_] | None:
        """Which images are called malignant, (n,); None without a threshold.

        Args:
            probabilities: Calibrated, (n, classes).
        """
        if self.benign is None or self.malignant_threshold is None:
            return None
        return np.asarray(p_malignant(probabilities, self.benign) >= self.malignant_threshold)

    def sets(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Which classes are in the prediction set of each image, (n, classes).

        Args:
            probabilities: Calibrated, (n, classes).
        """
        return prediction_sets(probabilities, self.set_threshold)

    def low_confidence(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Which images are referred because of a low probability, (n,)."""
        return np.asarray(probabilities.max(axis=1) < self.confidence_threshold)

    def undecided(self, probabilities: Floats) -> NDArray[np.bool_]:
        """For which images the model finds all classes equally probable, (n,).

        Prior correction, which would favour rare classes there, is undone first.
        """
        own = np.nan_to_num(probabilities)
        if self.priors is not None:
            own = own * np.asarray(self.priors)
        return np.asarray(np.ptp(own, axis=1) <= 1e-6 * own.max(axis=1))

    def threshold_disagrees(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Where the threshold contradicts the most probable class, (n,)."""
        called = self.malignant(probabilities)
        if called is None:
            return np.zeros(len(probabilities), bool)
        return np.asarray(called != (probabilities.argmax(axis=1) != self.benign))

    def members_disagree(self, disagreement: Floats) -> NDArray[np.bool_]:
        """Which images are referred because members differ, (n,)."""
        return np.asarray(disagreement > self.disagreement_limit)

    def reasons(
        self, probabilities: Floats, ood_score: Floats, disagreement: Floats | None = None
    ) -> list[Reasons]:
        """All reasons for referring each image to a person; empty if it is not referred.

        Args:
            probabilities: Calibrated, (n, classes).
            ood_score: (n,).
            disagreement: Of an ensemble's members, (n,); None if there is one model.
        """
        known = np.isfinite(probabilities).all(axis=1)
        finite: NDArray[np.bool_] = np.logical_and(known, np.isfinite(ood_score))
        differ = np.zeros(len(probabilities), bool)
        if disagreement is not None:
            differ = self.members_disagree(disagreement)
        found = {
            NOT_FINITE: ~finite,
            LOW_CONFIDENCE: finite & self.low_confidence(probabilities),
            UNDECIDED: finite & self.undecided(probabilities),
            OOD: finite & (ood_score > 1),
            DISAGREES: finite & self.threshold_disagrees(probabilities),
            MEMBERS_DISAGREE: finite & differ,
            UNCALIBRATED: np.full(len(probabilities), not self.calibrated),
        }
        return [tuple(name for name in found if found[name][i]) for i in range(len(probabilities))]

    def answer(
        self, logits: Floats, descriptors: Floats, disagreement: Floats | None = None
    ) -> Decisions:
        """Calibrates outputs, calls images malignant or not, and decides which to refer.

        Args:
            logits: (n, classes).
            descriptors: For the out-of-distribution score, (n, d).
            disagreement: Of an ensemble's members, (n,); None if there is one model.
        """
        probabilities = self.probabilities(logits)
        scores = self.ood_score(descriptors)
        reasons = self.reasons(probabilities, scores, disagreement)
        called = self.malignant(probabilities)
        known: list[bool | None] = [None] * len(reasons)
        if called is not None:
            pairs = zip(called, reasons, strict=True)
            known = [None if NOT_FINITE in why else bool(value) for value, why in pairs]
        finite = np.asarray([NOT_FINITE not in why for why in reasons], bool)
        sets = self.sets(probabilities) & finite[:, None]
        return Decisions(probabilities, known, reasons, sets, scores)

    def without_priors(self) -> DecisionPolicy:
        """The same policy without prior correction."""
        return replace(self, priors=None)

    def unread(self, path: str, error: str) -> Prediction:
        """The prediction for an image that could not be read.

        Args:
            path: Its path.
            error: Why it could not be read.
        """
        reasons = (UNREADABLE,) if self.calibrated else (UNREADABLE, UNCALIBRATED)
        return Prediction(path, "", (), error, reasons)

    def to_plain(self) -> dict[str, Any]:
        """Numbers and tensors, as stored in a checkpoint."""
        return {**vars(self), "subspace": self.subspace and self.subspace.to_plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> DecisionPolicy:
        """Restores the policy of a checkpoint; without one, a policy that refers every image.

        Raises:
            LookupError: A field is missing; nothing is assumed in its place.
            ValueError: The temperature, a threshold or the priors are not valid numbers.
        """
        if plain is None:
            return cls(calibrated=False)
        space = None if plain["subspace"] is None else Subspace.from_plain(plain["subspace"])
        # Checkpoints of earlier versions have no expectation; nothing follows from it.
        stored = {"expectation": None, **plain}
        stored = {field.name: stored[field.name] for field in fields(cls)}
        policy = cls(**{**stored, "subspace": space})
        numbers = (policy.temperature, policy.set_threshold, policy.malignant_threshold or 0.0)
        if not (np.isfinite(numbers).all() and policy.temperature > 0):
            raise ValueError(f"temperature and thresholds are {numbers}")
        if policy.priors is not None:
            check_priors(policy.priors)
        return policy


def p_malignant(probabilities: Floats, benign: int) -> Floats:
    """Probability (n,) of malignancy from probabilities (n, classes)."""
    return np.asarray(1 - probabilities[:, benign])


def referred(reasons: Sequence[Reasons]) -> NDArray[np.bool_]:
    """Which images are referred to a person, (n,)."""
    return np.asarray([bool(reason) for reason in reasons], bool)


def count_reasons(reasons: Sequence[Reasons]) -> dict[str, int]:
    """Number of images referred for each reason; an image can have several."""
    return dict(sorted(Counter(name for why in reasons for name in why).items()))
