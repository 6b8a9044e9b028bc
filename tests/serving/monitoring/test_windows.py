"""Windows of answers: where they end, and what they are compared with."""

from __future__ import annotations

import math

import pytest

from bcd.config.serve import MonitoringConfig
from bcd.serving.monitoring.drift import DISTANCES, REFERRAL
from bcd.serving.monitoring.figures import DAY, NO_ANSWER, summarise
from bcd.serving.monitoring.windows import BASELINE_WINDOWS, Stream
from tests.serving.monitoring.answers import SHA256, Source, row

CFG = MonitoringConfig(window=50, false_alarms=0.01)


def test_a_window_has_one_image_of_each_case_and_all_of_no_case() -> None:
    stream = Stream(CFG, Source(0, 0.1).val(500))
    cases = CFG.window - 1
    for i in range(3 * cases):
        assert stream.add(row(i, case_id=str(i % cases), ood_score=float(i // cases))) is None
    assert (stream.images, stream.answers) == (cases, 3 * cases)
    found = stream.add(row(3 * cases, ood_score=math.nan, refer=True))
    assert found is not None and stream.images == stream.answers == 0
    assert (found.number, found.answers, found.compared_images) == (1, 3 * cases + 1, CFG.window)
    assert (found.first, found.last, found.last_record) == (0.0, 180.0 * cases, 3 * cases)
    assert found.referred == 1 / CFG.window
    # Which image is drawn depends on chance: neither the first nor the last of most cases.
    assert (found.median, found.high) == (1.0, 2.0)
    ends = [stream.add(row(i)) for i in range(CFG.window)]
    assert [one is not None for one in ends] == [False] * (CFG.window - 1) + [True]


def test_one_large_case_cannot_set_off_an_alarm() -> None:
    stream = Stream(CFG, Source(0, 0.1).val(500))
    for i in range(20 * CFG.window):
        stream.add(row(i, case_id="large", refer=True, ood_score=9.0))
    for answer in Source(3, 0.1).rows(CFG.window - 1):
        stream.add(answer)
    (window,) = stream.windows
    assert window.answers > 20 * CFG.window and window.alarms == ()


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
    assert (total.answers, total.referred, total.reviewed, total.overridden) == (4, 2, 3, 1)
    assert found.cases == 1 and found.reasons == {"b": 2, "a": 1}
    assert found.findings == {"Benign": {"Benign": 1}, "Pro-B": {"Benign": 1}, NO_ANSWER: {"x": 1}}
    assert [span.counts.answers for span in found.spans] == [2, 0, 2]
    assert [span.day for span in found.spans] == ["1970-01-02", "1970-01-03", "1970-01-04"]
    assert [span.median for span in found.spans] == [2.0, None, 0.5]
    assert found.models[SHA256].answers == 3
    weeks = summarise(rows, DAY, 4 * DAY, 7)
    assert [span.counts.answers for span in weeks.spans] == [4]
