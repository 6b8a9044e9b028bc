"""Answers as the records list them, and the streams that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bcd.serving.monitoring.drift import Reference
from bcd.serving.records.queries import AnswerRow

SHA256 = "5" * 64
Floats = NDArray[np.float64]


def row(number: int = 1, **values: object) -> AnswerRow:
    """An answer of no case that was not referred, a minute after the one before."""
    plain = {
        "time": 60.0 * number, "model_sha256": SHA256, "predicted": "Benign", "refer": False,
        "reasons": (), "ood_score": 0.5, "finding": None, "case_id": None, "record": number,
    }  # fmt: skip
    return AnswerRow(**{**plain, **values})  # type: ignore[arg-type]


class Source:
    """Images whose scores within a case are correlated.

    Args:
        seed: Of the random numbers.
        referred: Share of images referred.
        icc: Correlation within a case.
        size: Images of a case; 1 for images of no case.
    """

    def __init__(self, seed: int, referred: float, icc: float = 0.0, size: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self._limit, self._icc, self._size = float(norm.isf(referred)), icc, size

    def scores(self, n: int, shift: float = 0.0) -> Floats:
        """Scores of n images, in standard deviations."""
        cases = np.repeat(self._rng.standard_normal(-(-n // self._size)), self._size)[:n]
        own = self._rng.standard_normal(n)
        return np.asarray(cases * self._icc**0.5 + own * (1 - self._icc) ** 0.5 + shift)

    def referred(self, scores: Floats, times: float = 1.0) -> list[bool]:
        """Which images are referred, where the share is multiplied."""
        limit = norm.isf(min(times * float(norm.sf(self._limit)), 1.0))
        return [bool(score > limit) for score in scores]

    def cases(self, n: int) -> list[str | None]:
        """Case of each image."""
        return [None if self._size == 1 else str(i // self._size) for i in range(n)]

    def val(self, n: int) -> Reference:
        """What n independent images make expect."""
        scores = self._rng.standard_normal(n)
        quantiles = np.quantile(scores, np.linspace(0, 1, 201))
        return Reference(
            float(np.mean(scores > self._limit)), n, tuple(quantiles.tolist()), n, "val"
        )

    def rows(self, n: int, times: float = 1.0, shift: float = 0.0) -> Iterator[AnswerRow]:
        """Answers for n images."""
        scores = self.scores(n, shift)
        parts: Sequence[Sequence[object]] = (
            scores.tolist(), self.referred(scores, times), self.cases(n)
        )  # fmt: skip
        for number, (score, refer, case) in enumerate(zip(*parts, strict=True), 1):
            yield row(number, ood_score=score, refer=refer, case_id=case)
