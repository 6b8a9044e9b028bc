"""Answers as the records list them, and the streams that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from bcd.config.serve import MonitoringConfig
from bcd.serving.monitoring.drift import Reference
from bcd.serving.monitoring.windows import Stream, Window
from bcd.serving.records.queries import AnswerRow

SHA256 = "5" * 64
Floats = NDArray[np.float64]
Sizes = Callable[[np.random.Generator], int]


def row(number: int = 1, **values: object) -> AnswerRow:
    """An answer of no case that was not referred, a minute after the one before."""
    plain = {
        "time": 60.0 * number, "model_sha256": SHA256, "predicted": "Benign", "refer": False,
        "reasons": (), "ood_score": 0.5, "finding": None, "case_id": None, "record": number,
        "site": "", "threshold": None, "match": "",
    }  # fmt: skip
    return AnswerRow(**{**plain, **values})  # type: ignore[arg-type]


class Source:
    """Images whose scores within a case are correlated.

    Args:
        seed: Of the random numbers.
        referred: Share of images referred.
        icc: Correlation within a case.
        sizes: Images of the next case; None for images of no case.
    """

    def __init__(
        self, seed: int, referred: float, icc: float = 0.0, sizes: Sizes | None = None
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._limit, self._icc, self._sizes = float(norm.isf(referred)), icc, sizes
        self._cases = 0

    def scores(self, n: int, shift: float = 0.0) -> Floats:
        """Scores of n images of one case, or of no case, in standard deviations."""
        case = self._rng.standard_normal(n if self._sizes is None else 1)
        own = self._rng.standard_normal(n)
        return np.asarray(case * self._icc**0.5 + own * (1 - self._icc) ** 0.5 + shift)

    def referred(self, scores: Floats, times: float = 1.0) -> list[bool]:
        """Which images are referred, where the share is multiplied."""
        limit = norm.isf(min(times * float(norm.sf(self._limit)), 1.0))
        return [bool(score > limit) for score in scores]

    def val(self, n: int) -> Reference:
        """What n independent images make expect."""
        scores = self._rng.standard_normal(n)
        quantiles = np.quantile(scores, np.linspace(0, 1, 201))
        return Reference(
            float(np.mean(scores > self._limit)), n, tuple(quantiles.tolist()), n, "val", "val"
        )

    def rows(self, n: int, times: float = 1.0, shift: float = 0.0) -> Iterator[AnswerRow]:
        """Answers for n images, or for all of n cases."""
        number = 0
        for _ in range(n if self._sizes is not None else 1):
            size = n if self._sizes is None else self._sizes(self._rng)
            self._cases += 1
            case = None if self._sizes is None else str(self._cases)
            scores = self.scores(size, shift)
            for score, refer in zip(scores.tolist(), self.referred(scores, times), strict=True):
                number += 1
                yield row(number, ood_score=score, refer=refer, case_id=case)

    def window(
        self, reference: Reference, size: int, false_alarms: float, times: float = 1.0,
        shift: float = 0.0,
    ) -> Window:  # fmt: skip
        """A window of so many images or cases, as a server makes it."""
        stream = Stream(MonitoringConfig(window=size, false_alarms=false_alarms), reference)
        for answer in self.rows(size, times, shift):
            stream.add(answer)
        return stream.windows[0]


def equal(size: int) -> Sizes:
    """Cases of this size."""
    return lambda _: size


def lognormal(rng: np.random.Generator) -> int:
    """Sizes with a median of 15 and a standard deviation of 1 of their logarithm."""
    return max(1, int(rng.lognormal(np.log(15), 1)))


def small_and_large(rng: np.random.Generator) -> int:
    """Half of the cases have 1 to 3 images, the others 50 to 100."""
    return int(rng.integers(1, 4) if rng.random() < 0.5 else rng.integers(50, 101))


def few_huge(rng: np.random.Generator) -> int:
    """Every tenth case has 200 images, the others 5."""
    return 200 if rng.random() < 0.1 else 5
