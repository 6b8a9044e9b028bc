"""Windows of answers: where they end, and what they are compared with."""

from __future__ import annotations

import pytest

from bcd.config.serve import MonitoringConfig
from bcd.serving.monitoring.drift import DISTANCES, REFERRAL
from bcd.serving.monitoring.figures import DAY, NO_ANSWER, summarise
from bcd.serving.monitoring.windows import BASELINE_WINDOWS, MIN_CASES, Stream
from tests.serving.monitoring.answers import SHA256, Source, row

CFG = MonitoringConfig(window=50, false_alarms=0.01)


def test_a_window_ends_with_enough_answers_from_enough_cases() -> None:
    stream = Stream(CFG, Source(0, 0.1).val(500))
    cases = MIN_CASES - 1
    for i in range(2 * CFG.window):
        assert stream.add(row(i, case_id=str(i % cases))) is None
    found = stream.add(row(case_id=None, time=7.0))  # an answer of no case counts as one
    assert found is not None and stream.pending == [] and stream.cases == 0
    assert (found.number, found.answers, found.cases) == (1, 2 * CFG.window + 1, MIN_CASES)
    assert (found.first, found.last) == (0.0, 7.0)
    ends = [stream.add(row(i)) for i in range(CFG.window)]
    assert [one is not None for one in ends] == [False] * (CFG.window - 1) + [True]


def test_where_val_is_unknown_the_first_windows_are_the_baseline() -> None:
    source, stream = Source(1, 0.1), Stream(CFG, None)
    for i, answer in enumerate(source.rows(BASELINE_WINDOWS * CFG.window)):
        assert (stream.reference is None) == (i < BASELINE_WINDOWS * CFG.window)
        stream.add(answer)
    assert all(window.compared is None and not window.alarms for window in stream.windows)
    reference = stream.reference
    assert reference is not None and reference.source == "baseline"
    assert reference.n == len(reference.scores) == BASELINE_WINDOWS * CFG.window
    referred = sum(w.referred for w in stream.windows) / BASELINE_WINDOWS
    assert reference.referred == pytest.approx(referred)
    for answer in source.rows(CFG.window, times=8.0, shift=2.0):
        stream.add(answer)
    assert set(stream.windows[-1].alarms) == {REFERRAL, DISTANCES}


def test_images_of_few_cases_make_a_baseline_that_is_worth_less() -> None:
    stream = Stream(CFG, None)
    for answer in Source(2, 0.3, 0.8, 25).rows(20 * BASELINE_WINDOWS * CFG.window):
        if stream.reference is None:
            stream.add(answer)
    answers = sum(window.answers for window in stream.windows)
    reference = stream.reference
    assert reference is not None
    assert reference.n < answers / 5 and reference.scores_n < answers / 5


def test_figures_count_every_answer_of_the_period_once() -> None:
    rows = [
        row(time=DAY - 1),  # before the period
        row(time=DAY, refer=True, reasons=("a", "b"), case_id="one", ood_score=1.0),
        row(time=2 * DAY - 1, predicted="Pro-B", finding="Benign", ood_score=3.0, case_id="one"),
        row(time=3 * DAY, predicted=None, refer=True, reasons=("b",), ood_score=None, finding="x"),
        row(time=3 * DAY, model_sha256="6" * 64, finding="Benign"),
        row(time=4 * DAY),  # after it
    ]
    found = summarise(rows, DAY, 4 * DAY, 1)
    total = found.total
    assert (total.answers, total.referred, total.reviewed, total.overridden) == (4, 2, 3, 2)
    assert found.cases == 1 and found.reasons == {"b": 2, "a": 1}
    assert found.findings == {"Benign": {"Benign": 1}, "Pro-B": {"Benign": 1}, NO_ANSWER: {"x": 1}}
    assert [span.counts.answers for span in found.spans] == [2, 0, 2]
    assert [span.day for span in found.spans] == ["1970-01-02", "1970-01-03", "1970-01-04"]
    assert [span.median for span in found.spans] == [2.0, None, 0.5]
    assert found.models[SHA256].answers == 3
    weeks = summarise(rows, DAY, 4 * DAY, 7)
    assert [span.counts.answers for span in weeks.spans] == [4]
