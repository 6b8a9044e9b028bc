"""The dashboard of a server with recorded answers, and its alarms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest

from bcd.config.disclaimer import DISCLAIMER
from bcd.evaluation.expectation import Expectation
from bcd.serving.errors import StorageFullError, UnavailableError
from bcd.serving.monitoring import monitor
from bcd.serving.monitoring.charts import line_chart
from bcd.serving.monitoring.monitor import Monitor, alarms, reference
from bcd.serving.records.cases import NewImage
from bcd.serving.services import Services
from tests.serving.making import IDENTITY
from tests.serving.monitoring.answers import Source
from tests.serving.monitoring.making import (
    EXPECTED,
    WINDOW,
    answered,
    client,
    engine_that_says,
    recorded_alarms,
    started,
)


@pytest.mark.parametrize(
    ("roles", "status"), [("review", 200), ("sign", 200), ("admin", 200), ("submit", 403)]
)
def test_who_may_see_the_dashboard(services: Services, roles: str, status: int) -> None:
    answer = client(services, roles).get("/dashboard")
    assert answer.status_code == status
    assert DISCLAIMER in answer.text


def test_a_server_without_answers_says_so(services: Services) -> None:
    text = client(services, "review").get("/dashboard?days=7").text
    assert f"No window of {WINDOW} cases is complete yet: 0 so far." in text
    assert "Days as a table" in text
    assert "Weeks as a table" in client(services, "review").get("/dashboard?days=365").text
    assert "No answers in this period." in text and "No image has been reviewed." in text
    assert text.count("<td>0</td><td>0</td><td>none</td><td>0</td><td>0</td>") == 7  # the days
    assert client(services, "review").get("/dashboard?days=8").status_code == 422


def test_the_page_says_what_is_expected_and_shows_charts_as_tables(services: Services) -> None:
    source = Source(1, 0.1)
    given = answered(source, 2 * WINDOW + 5)
    services.records.add_answers("ada", given, IDENTITY)
    case = services.records.open_case("ada", "Ward 7", IDENTITY, 1)
    (image,) = services.records.add_images(
        "ada",
        case,
        IDENTITY,
        [(NewImage("a.png", b"image"), replace(given[0], refer=True, reasons=("x",)))],
    )
    services.records.review("ada", case, image, "Pro-B", "a remark")
    text = client(services, "review").get("/dashboard").text
    assert "No alarm." in text and f"{EXPECTED.referred:.1%}".replace("%", " %") in text
    assert "at most 1.0 %" in text and "val, 300 independent images" in text
    assert f"<dd>{len(given) + 1}</dd>" in text
    assert re.search(r"Benign</th><td>Pro-B \(override\)</td><td>1</td>", text)
    referred = sum(answer.refer for answer in given)
    assert referred > 1 and f"low confidence</th><td>{referred}</td>" in text
    windows = re.search(r"Windows as a table.*?</table>", text, re.S)
    assert windows is not None and windows[0].count('<tr><th scope="row">') == 2
    assert text.count("<svg") == 4 == text.count('role="img"')
    assert not re.search(r"style=|<style|<script(?! src)|onclick", text)
    assert not any(typed in text for typed in ("Ward 7", "a.png", "a remark"))


def test_shares_of_days_are_shown_from_the_first_answer_on(services: Services) -> None:
    (given,) = answered(Source(1, 0.1), 1)
    case = services.records.open_case("ada", "", IDENTITY, 1)
    asked = [
        (NewImage("a.png", b""), replace(given, refer=refer)) for refer in (True, False, False)
    ]
    first, second, _ = services.records.add_images("ada", case, IDENTITY, asked)
    services.records.review("ada", case, first, "Pro-B", "a remark")
    services.records.review("ada", case, second, "Benign", "")
    text = client(services, "review").get("/dashboard?days=7").text
    assert ", referred: 33.3 %</title>" in text and ", overridden: 50.0 %</title>" in text
    assert "<td>3</td><td>1</td><td>33.3 %</td><td>2</td><td>1</td>" in text


def test_the_band_of_a_single_window_has_an_area() -> None:
    drawn = line_chart("x", ["1", "2"], {"x": [0.1, 0.2]}, band=[None, (0.05, 0.3)])
    corners = [tuple(map(float, point.split(","))) for point in drawn.band.split()]
    (left, low), (right, lower), (end, high), (start, _) = corners
    assert left < right == end and low == lower > high and start == left


def test_an_alarm_is_on_the_page_in_the_metrics_and_once_in_the_records(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(2, 0.1)
    services.records.add_answers("ada", answered(source, WINDOW), IDENTITY)
    assert alarms(services) == {("referral", ""): 0.0, ("distances", ""): 0.0}
    services.records.add_answers("ada", answered(source, WINDOW, 6.0, 2.0), IDENTITY)
    assert alarms(services)["referral", ""] == 0.0  # for a minute
    monkeypatch.setattr(monitor, "_SECONDS", 0.0)
    assert alarms(services) == {("referral", ""): 1.0, ("distances", ""): 1.0}
    said = client(services, "").get("/metrics").text
    assert re.findall(r'^bcd_alarms\{alarm="(\w+)",site=""\} 1.0$', said, re.M) == [
        "referral", "distances"
    ]  # fmt: skip
    text = client(services, "admin").get("/dashboard").text
    assert "<strong>Alarm.</strong>" in text and 'class="alarm"' in text
    assert "share of images referred; distribution of out-of-distribution scores" in text
    (payload,) = recorded_alarms(services)
    assert '"window":2' in payload.replace(" ", "") and IDENTITY.sha256 in payload
    # A server that starts later knows of the alarm and does not record it again.
    later = started(services)
    later.update()
    assert [bool(w.alarms) for w in later.stream("").windows] == [False, True]
    assert len(recorded_alarms(services)) == 1


def test_an_alarm_that_could_not_be_recorded_is_recorded_later(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.records.add_answers("ada", answered(Source(2, 0.1), WINDOW, 6.0, 2.0), IDENTITY)
    watched = started(services)
    with monkeypatch.context() as full:
        full.setattr(services.records, "alarms", Mock(side_effect=StorageFullError("full")))
        with pytest.raises(StorageFullError):
            watched.update()
    assert recorded_alarms(services) == []
    watched.update()
    assert len(recorded_alarms(services)) == 1


def test_alarms_are_found_while_nobody_looks(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_EVERY", 0.01)
    services.records.add_answers("ada", answered(Source(2, 0.1), WINDOW, 6.0, 2.0), IDENTITY)
    looks = Mock(side_effect=[UnavailableError("gone"), *[None] * 1000])

    async def looking() -> None:
        task = asyncio.create_task(monitor.watch(services))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if recorded_alarms(services):
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    real = Monitor.update

    def update(self: Monitor, seconds: float = 0.0) -> None:
        looks()
        real(self, seconds)

    monkeypatch.setattr(Monitor, "update", update)
    asyncio.run(looking())
    assert looks.call_count >= 2 and len(recorded_alarms(services)) == 1


def test_answers_of_another_model_are_not_watched_and_an_unknown_one_has_a_baseline(
    services: Services,
) -> None:
    other = replace(IDENTITY, sha256="6" * 64, name="former")
    given = answered(Source(3, 0.1), WINDOW)
    services.records.add_answers("ada", [replace(a, model_sha256="6" * 64) for a in given], other)
    assert alarms(services) == {("referral", ""): 0.0, ("distances", ""): 0.0}
    watched = monitor.get_monitor(services)
    assert watched.stream("").windows == []
    text = client(services, "review").get("/dashboard").text
    assert '<th scope="row">former</th>' in text
    for silent in (None, {}, {"expectation": None}):
        assert reference(replace(services, engine=engine_that_says(silent))) is None


def test_each_answer_is_read_once(services: Services) -> None:
    read: list[int] = []
    given = answered(Source(4, 0.1), 10)
    services.records.add_answers("ada", given, IDENTITY)

    class Counting:
        def statistics(self, since: float, after: int = 0) -> Iterator[Any]:
            for row in services.records.statistics(since, after):
                read.append(row.record)
                yield row

    watched = Monitor(cast(Any, Counting()), services.cfg.monitoring, IDENTITY.sha256, None)
    watched.update()
    services.records.add_answers("ada", given, IDENTITY)
    watched.update()
    assert len(read) == len(set(read)) == 20 == watched.stream("").images


def test_metrics_do_not_wait_while_answers_are_read(services: Services) -> None:
    watched = monitor.get_monitor(services)
    with watched._lock, ThreadPoolExecutor(1) as other:
        assert set(other.submit(alarms, services).result(5).values()) == {0.0}


def test_expectations_of_the_policy_are_plain_and_checked() -> None:
    assert Expectation.from_plain(EXPECTED.to_plain()) == EXPECTED
    for wrong in ({"referred": 1.2}, {"n": 0.0}, {"scores": [2.0, 1.0]}, {"scores": [np.nan]}):
        with pytest.raises(ValueError):
            Expectation.from_plain(EXPECTED.to_plain() | wrong)
