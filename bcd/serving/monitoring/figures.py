"""Figures of the answers in a period, for the dashboard."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bcd.serving.monitoring.windows import Answered, known_scores

DAY = 86400.0
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Span:
    """One or several days.

    Attributes:
        start: Its first second, since 1970.
        answers: Number of answers.
        referred: Number of images referred.
        median: Of the out-of-distribution scores; None if there are none.
        high: Their 95 % quantile.
    """

    start: float
    answers: int
    referred: int
    median: float | None
    high: float | None

    @property
    def day(self) -> str:
        """Its first day in UTC, `YYYY-MM-DD`."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.start))


@dataclass(frozen=True)
class OfModel:
    """What one model answered in the period."""

    sha256: str
    answers: int
    referred: int
    reviewed: int
    overridden: int


@dataclass
class Figures:
    """What is shown of a period.

    Attributes:
        answers: Number of answers.
        referred: Number of images referred.
        cases: Number of cases with an answer.
        reviewed: Number of images that a person has reviewed.
        overridden: Number of these whose finding differs from the model's class.
        reasons: Number of images referred for each reason, the most frequent first.
        findings: Number of reviewed images by model's class and finding.
        models: The most recent first.
        spans: In order, without gaps.
    """

    answers: int = 0
    referred: int = 0
    cases: int = 0
    reviewed: int = 0
    overridden: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    findings: dict[str, dict[str, int]] = field(default_factory=dict)
    models: list[OfModel] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


def summarise(answers: Sequence[Answered], since: float, until: float, step: int) -> Figures:
    """Counts the answers of a period.

    Args:
        answers: In the order they were given.
        since: Start of the period, at midnight UTC.
        until: Its end.
        step: Days of each span.
    """
    reasons = Counter(reason for a in answers for reason in a.reasons)
    reviewed = [a for a in answers if a.finding is not None]
    findings: dict[str, Counter[str]] = defaultdict(Counter)
    for one in reviewed:
        findings[one.predicted or NO_ANSWER][str(one.finding)] += 1
    of_models: dict[str, list[Answered]] = defaultdict(list)
    for one in reversed(answers):
        of_models[one.model_sha256].append(one)
    return Figures(
        len(answers),
        sum(a.refer for a in answers),
        len({a.case_id for a in answers if a.case_id is not None}),
        len(reviewed),
        _overridden(reviewed),
        dict(reasons.most_common()),
        {name: dict(findings[name].most_common()) for name in sorted(findings)},
        [_of_model(sha256, own) for sha256, own in of_models.items()],
        list(_spans(answers, since, until, step * DAY)),
    )


def _of_model(sha256: str, answers: Sequence[Answered]) -> OfModel:
    reviewed = [a for a in answers if a.finding is not None]
    referred = sum(a.refer for a in answers)
    return OfModel(sha256, len(answers), referred, len(reviewed), _overridden(reviewed))


def _overridden(reviewed: Sequence[Answered]) -> int:
    return sum(a.finding != a.predicted for a in reviewed)


def _spans(
    answers: Sequence[Answered], since: float, until: float, seconds: float
) -> Iterable[Span]:
    parts: dict[int, list[Answered]] = defaultdict(list)
    for answer in answers:
        parts[int((answer.at - since) // seconds)].append(answer)
    for place in range(int(np.ceil((until - since) / seconds))):
        own = parts[place]
        scores = known_scores(own)
        middle, high = np.quantile(scores, (0.5, 0.95)).tolist() if scores else (None, None)
        referred = sum(a.refer for a in own)
        yield Span(since + place * seconds, len(own), referred, middle, high)
