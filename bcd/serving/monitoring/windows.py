"""Cuts a model's answers into windows, in the order they were given, and compares each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bcd.config.serve import MonitoringConfig
from bcd.serving.monitoring.drift import Comparison, Reference, compare, design_effect
from bcd.serving.records.queries import AnswerRow

# A window has at least so many cases, because the design effect of fewer is too uncertain.
MIN_CASES = 10
BASELINE_WINDOWS = 5  # whose answers are the reference where the model says nothing of val


@dataclass(frozen=True)
class Window:
    """Consecutive answers of one model.

    Attributes:
        number: From 1.
        first: Time of its first answer, in seconds since 1970.
        last: Time of its last answer.
        answers: Number of answers.
        cases: Number of cases; an answer of no case counts as one.
        referred: Share of images referred.
        median: Of the out-of-distribution scores; None if there are none.
        high: Their 95 % quantile.
        compared: With the reference; None for a window of the baseline.
    """

    number: int
    first: float
    last: float
    answers: int
    cases: int
    referred: float
    median: float | None
    high: float | None
    compared: Comparison | None

    @property
    def alarms(self) -> tuple[str, ...]:
        """What it sets off."""
        return () if self.compared is None else self.compared.alarms


@dataclass
class Stream:
    """The answers of one model.

    Attributes:
        cfg: Size of windows and share of false alarms.
        reference: What is expected; None until the baseline is complete.
        windows: All that are complete, in order.
        pending: Answers after the last window.
    """

    cfg: MonitoringConfig
    reference: Reference | None
    windows: list[Window] = field(default_factory=list)
    pending: list[AnswerRow] = field(default_factory=list)
    _baseline: list[AnswerRow] = field(default_factory=list)
    _cases: set[str] = field(default_factory=set)
    _alone: int = 0

    @property
    def cases(self) -> int:
        """Number of cases after the last window."""
        return len(self._cases) + self._alone

    def add(self, answer: AnswerRow) -> Window | None:
        """Adds the next answer; returns the window that it completes."""
        self.pending.append(answer)
        if answer.case_id is None:
            self._alone += 1
        else:
            self._cases.add(answer.case_id)
        if len(self.pending) < self.cfg.window or self.cases < MIN_CASES:
            return None
        window = self._complete(self.pending, self.cases)
        self.windows.append(window)
        if self.reference is None:
            self._baseline += self.pending
            if len(self.windows) == BASELINE_WINDOWS:
                self.reference = baseline(self._baseline)
                self._baseline = []
        self.pending, self._cases, self._alone = [], set(), 0
        return window

    def _complete(self, answers: Sequence[AnswerRow], cases: int) -> Window:
        scores = known_scores(answers)
        compared = None
        if self.reference is not None:
            compared = compare(
                self.reference, [a.refer for a in answers], [a.ood_score for a in answers],
                [a.case_id for a in answers], self.cfg.false_alarms,
            )  # fmt: skip
        middle, high = np.quantile(scores, (0.5, 0.95)).tolist() if scores else (None, None)
        share = sum(a.refer for a in answers) / len(answers)
        return Window(
            len(self.windows) + 1, answers[0].time, answers[-1].time, len(answers), cases, share,
            middle, high, compared,
        )  # fmt: skip


def baseline(answers: Sequence[AnswerRow]) -> Reference:
    """The reference that a server's own first answers make.

    It is worth as many independent images as their design effect leaves.
    """
    cases = [a.case_id for a in answers]
    flags = np.asarray([a.refer for a in answers], float)
    scored = [a for a in answers if a.ood_score is not None and np.isfinite(a.ood_score)]
    scores = np.asarray(known_scores(answers))
    scores_n = 0.0
    if scored:
        ranks = np.searchsorted(np.sort(scores), scores) / len(scores)
        scores_n = len(scores) / design_effect(ranks, [a.case_id for a in scored])
    return Reference(
        float(flags.mean()), len(flags) / design_effect(flags, cases), tuple(scores.tolist()),
        scores_n, "baseline",
    )  # fmt: skip


def known_scores(answers: Iterable[AnswerRow]) -> list[float]:
    """Out-of-distribution scores of the answers that have a finite one."""
    scores = (a.ood_score for a in answers)
    return [score for score in scores if score is not None and np.isfinite(score)]
