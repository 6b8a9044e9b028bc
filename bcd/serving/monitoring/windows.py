"""Cuts answers of a model at a site, with one threshold and match, into windows; compares each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bcd.config.serve import MonitoringConfig
from bcd.serving.monitoring.drift import REFERRAL, Comparison, Reference, compare
from bcd.serving.records.queries import AnswerRow

BASELINE_WINDOWS = 5  # whose images are the reference where the model says nothing of val


@dataclass(frozen=True)
class Window:
    """Consecutive answers of one model at one site with one threshold and one match.

    One image of each case is compared, and each image of no case.

    Attributes:
        number: From 1.
        first: Time of its first answer, in seconds since 1970.
        last: Time of its last answer.
        last_record: Number of the record of its last answer.
        answers: Number of answers.
        compared_images: Number of images that are compared.
        referred: Share of these that were referred.
        median: Of their out-of-distribution scores; None if there are none.
        high: Their 95 % quantile.
        compared: With what was known of the reference then; None if nothing was.
    """

    number: int
    first: float
    last: float
    last_record: int
    answers: int
    compared_images: int
    referred: float
    median: float | None
    high: float | None
    compared: Comparison | None

    @property
    def alarms(self) -> tuple[str, ...]:
        """What it sets off."""
        return () if self.compared is None else self.compared.alarms

    def compares(self, alarm: str) -> bool:
        """Whether it says if there is this alarm: a window of a baseline says nothing of shares."""
        found = self.compared
        if found is None:
            return False
        return (found.p_referral if alarm == REFERRAL else found.p_distances) is not None


@dataclass
class Stream:
    """The answers of one model at one site with one threshold and one match.

    Attributes:
        cfg: Size of windows and share of false alarms.
        reference: What is expected; what is unknown of it is taken from the first windows.
        windows: All that are complete, in order.
        answers: Number of answers after the last window.
    """

    cfg: MonitoringConfig
    reference: Reference | None
    windows: list[Window] = field(default_factory=list)
    answers: int = 0
    _first: float = 0.0
    _images: dict[str, AnswerRow] = field(default_factory=dict)  # by case, or of no case
    _baseline: list[AnswerRow] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images after the last window that will be compared."""
        return len(self._images)

    def add(self, answer: AnswerRow) -> Window | None:
        """Adds the next answer; returns the window that it completes."""
        if not self.answers:
            self._first = answer.time
        self.answers += 1
        unit = f"record {answer.record}" if answer.case_id is None else answer.case_id
        known = self._images.get(unit)
        if known is None or _draw(answer) < _draw(known):
            self._images[unit] = answer
        if len(self._images) < self.cfg.window:
            return None
        images = list(self._images.values())
        window = self._complete(answer, images)
        self.windows.append(window)
        if self.reference is None or self.reference.referred is None:
            self._baseline += images
            if len(self.windows) == BASELINE_WINDOWS:
                self.reference = baseline(self._baseline, self.reference)
                self._baseline = []
        self.answers, self._images = 0, {}
        return window

    def _complete(self, last: AnswerRow, images: Sequence[AnswerRow]) -> Window:
        scores = known_scores(images)
        flags = [image.refer for image in images]
        compared = None
        if self.reference is not None:
            compared = compare(self.reference, flags, scores, self.cfg.false_alarms)
        middle, high = np.quantile(scores, (0.5, 0.95)).tolist() if scores else (None, None)
        return Window(
            len(self.windows) + 1, self._first, last.time, last.record, self.answers, len(images),
            sum(flags) / len(images), middle, high, compared,
        )  # fmt: skip


def baseline(images: Sequence[AnswerRow], known: Reference | None) -> Reference:
    """The reference that the first windows of a site make, with scores that are known before."""
    share, n = sum(image.refer for image in images) / len(images), len(images)
    if known is not None and known.scores:
        return replace(known, referred=share, n=n, source="baseline")
    scores = known_scores(images)
    return Reference(share, n, tuple(scores), len(scores), "baseline", "baseline")


def _draw(answer: AnswerRow) -> bytes:
    """A number as good as random, by which an image of a case is drawn; the same in every process.

    The first or last image would not do: people may upload images in an order that means something.
    """
    return hashlib.sha256(str(answer.record).encode()).digest()


def known_scores(answers: Iterable[AnswerRow]) -> list[float]:
    """Out-of-distribution scores of the answers that have a finite one."""
    scores = (a.ood_score for a in answers)
    return [score for score in scores if score is not None and np.isfinite(score)]
