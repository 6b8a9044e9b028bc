"""What answers for new images are expected to look like, from those for val.

A program that answers images later compares with it what it sees (`bcd.serving.monitoring`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bcd.evaluation.bootstrap import Groups, effective_groups
from bcd.evaluation.decision import DecisionPolicy, Floats, referred

_QUANTILES = 201


@dataclass(frozen=True)
class Expectation:
    """What is expected of answers for images like those of val.

    Attributes:
        referred: Share of images that are referred.
        n: Independent images that it was measured on, or what groups are worth (Kish 1965).
        scores: Evenly spaced quantiles of the out-of-distribution score, from 0 to 100 %; empty
            if there is no detector.
    """

    referred: float
    n: float
    scores: tuple[float, ...]

    def to_plain(self) -> dict[str, Any]:
        """Numbers, as stored in a checkpoint."""
        return {**asdict(self), "scores": list(self.scores)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Expectation:
        """Restores what `to_plain` made.

        Raises:
            LookupError: A field is missing.
            ValueError: A number cannot be what it stands for.
        """
        found = cls(float(plain["referred"]), float(plain["n"]), tuple(map(float, plain["scores"])))
        if not (0 <= found.referred <= 1 and 1 <= found.n < math.inf):
            raise ValueError(f"referred and n are {found.referred} and {found.n}")
        if not np.isfinite(found.scores).all() or list(found.scores) != sorted(found.scores):
            raise ValueError("quantiles of scores do not ascend")
        return found


def expect(
    policy: DecisionPolicy,
    probabilities: Floats,
    ood_score: Floats,
    disagreement: Floats | None,
    groups: Groups | None,
) -> Expectation:
    """What is expected of answers for new images.

    Args:
        policy: With its limits.
        probabilities: Calibrated, of val, (n, classes).
        ood_score: Of val, (n,), from detectors fitted without each image.
        disagreement: Of an ensemble's members, (n,); None if there is one model.
        groups: Group of each image of val; None if images are independent.
    """
    flags = referred(policy.reasons(probabilities, ood_score, disagreement))
    scores: tuple[float, ...] = ()
    if policy.subspace is not None:
        found = np.quantile(ood_score[np.isfinite(ood_score)], np.linspace(0, 1, _QUANTILES))
        scores = tuple(map(float, found))
    n = effective_groups(groups)
    return Expectation(float(flags.mean()), float(len(flags) if n is None else n), scores)
