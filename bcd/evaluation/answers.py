"""Outputs of a network for images, and probabilities; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.errors import BcdError


@dataclass(frozen=True)
class Answers:
    """Outputs of a network for n images.

    Attributes:
        logits: (n, classes).
        descriptors: Out-of-distribution descriptors, (n, d).
        labels: (n,).
        disagreement: How much the members of an ensemble differ, (n,); None for a single model.
    """

    logits: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    labels: NDArray[np.int64]
    disagreement: NDArray[np.float32] | None = None

    def __getitem__(self, rows: Any) -> Answers:
        """The answers for some of the images."""
        spread = None if self.disagreement is None else self.disagreement[rows]
        return Answers(self.logits[rows], self.descriptors[rows], self.labels[rows], spread)


def check_finite(answers: Answers, paths: Sequence[str] = ()) -> None:
    """Raises an error if any output is not finite: with NaN, argmax would return the first class.

    Args:
        answers: For n images.
        paths: Of these images, so that the error can name the first one affected.

    Raises:
        BcdError: A logit or a descriptor is not finite.
    """
    parts = (answers.logits, answers.descriptors)
    finite: NDArray[np.bool_] = np.all([np.isfinite(p).all(axis=1) for p in parts], axis=0)
    wrong = np.flatnonzero(~finite)
    if len(wrong):
        first = f", the first for {paths[wrong[0]]}" if paths else ""
        raise BcdError(
            f"{len(wrong)} of {len(finite)} outputs are not finite{first}: the weights are "
            "unusable, perhaps because training diverged (try a smaller optimizer.lr)"
        )


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities (n, classes) of logits (n, classes)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
