"""Figures of the answers in a period, for the dashboard."""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bcd.serving.records.queries import AnswerRow

DAY = 86400.0
NO_ANSWER = "no answer"


@dataclass
class Counts:
    """Numbers of images; without an answer there is nothing to override."""

    answers: int = 0
    referred: int = 0
    reviewed: int = 0
    overridden: int = 0

    def add(self, row: AnswerRow) -> None:
        """Counts an answer."""
        self.answers += 1
        self.referred += row.refer
        self.reviewed += row.finding is not None
        self.overridden += None not in (row.finding, row.predicted) and row.finding != row.predicted


@dataclass
class Span:
    """One or several days.

    Attributes:
        start: Its first second, since 1970.
        counts: Of its answers.
        scores: Out-of-distribution scores of those that have one.
    """

    start: float
    counts: Counts = field(default_factory=Counts)
    scores: array[float] = field(default_factory=lambda: array("d"))

    @property
    def day(self) -> str:
        """Its first day in UTC, `YYYY-MM-DD`."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.start))

    @property
    def median(self) -> float | None:
        """Of the scores; None if there are none."""
        return self._quantile(0.5)

    @property
    def high(self) -> float | None:
        """The 95 % quantile of the scores; None if there are none."""
        return self._quantile(0.95)

    def _quantile(self, share: float) -> float | None:
        return float(np.quantile(self.scores, share)) if self.scores else None


@dataclass(frozen=True)
class Figures:
    """What is shown of a period.

    Attributes:
        total: Of all answers.
        cases: Number of cases with an answer.
        reasons: Number of images referred for each reason, the most frequent first.
        findings: Number of reviewed images by the model's class and finding.
        models: By sha256.
        spans: In order, without gaps.
    """

    total: Counts
    cases: int
    reasons: dict[str, int]
    findings: dict[str, dict[str, int]]
    models: dict[str, Counts]
    spans: list[Span]


def summarise(rows: Iterable[AnswerRow], since: float, until: float, step: int) -> Figures:
    """Counts the answers of a period.

    Args:
        rows: Answers; those outside the period are left out.
        since: Start of the period, at midnight UTC.
        until: Its end.
        step: Days of each span.
    """
    seconds = step * DAY
    spans = [Span(since + i * seconds) for i in range(math.ceil((until - since) / seconds))]
    total, cases, reasons = Counts(), set(), Counter[str]()
    models: dict[str, Counts] = defaultdict(Counts)
    findings: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if not since <= row.time < until:
            continue
        span = spans[int((row.time - since) // seconds)]
        for counts in (total, models[row.model_sha256], span.counts):
            counts.add(row)
        if row.ood_score is not None and math.isfinite(row.ood_score):
            span.scores.append(row.ood_score)
        if row.case_id is not None:
            cases.add(row.case_id)
        reasons.update(row.reasons)
        if row.finding is not None:
            findings[row.predicted or NO_ANSWER][row.finding] += 1
    return Figures(
        total, len(cases), dict(reasons.most_common()),
        {name: dict(findings[name].most_common()) for name in sorted(findings)},
        dict(models), spans,
    )  # fmt: skip
