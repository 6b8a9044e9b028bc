"""Windows and alarms of several sites, and of a site whose settings change."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from bcd.data.matching import Match
from bcd.serving.engine.sites import Way
from bcd.serving.monitoring import monitor
from bcd.serving.monitoring.monitor import alarms
from bcd.serving.monitoring.windows import BASELINE_WINDOWS
from bcd.serving.services import Services
from tests.serving.making import IDENTITY
from tests.serving.monitoring.answers import Source
from tests.serving.monitoring.making import (
    WINDOW,
    answered,
    client,
    recorded_alarms,
    started,
)


def test_each_site_has_windows_alarms_and_a_reference_of_its_own(services: Services) -> None:
    several: dict[str, Any] = {"main": {}, "east": {}, "west": {}}
    services = replace(services, cfg=replace(services.cfg, site="main", sites=several,
                       proxy=replace(services.cfg.proxy, roles_header=None)))  # fmt: skip
    source = Source(6, 0.1)
    services.records.add_answers("ada", answered(source, WINDOW), IDENTITY, "main")
    services.records.add_answers("ada", answered(source, WINDOW, 6.0, 2.0), IDENTITY, "east")
    found = alarms(services)
    assert found["referral", "east"] == found["distances", "east"] == 1.0
    assert sum(found.values()) == 2.0 and {site for _, site in found} == set(several)
    (alarm,) = recorded_alarms(services)
    assert json.loads(alarm)["site"] == "east"


@pytest.mark.parametrize("way", [Way(threshold=0.3), Way(Match(1.5, None), "8" * 64)])
def test_windows_begin_anew_with_other_settings_of_a_site(services: Services, way: Way) -> None:
    engine, source = services.engine, Source(7, 0.1)
    services.records.add_answers("ada", answered(source, 2 * WINDOW), IDENTITY)
    assert not any(alarms(services).values())
    setting: dict[str, Any] = {"threshold": way.threshold, "match": way.match_sha256}
    other = [replace(one, refer=True, **setting) for one in answered(source, WINDOW)]
    services.records.add_answers("ada", other, IDENTITY)
    engine.ways = {"": way}
    page = client(services, "review").get("/dashboard").text
    windows = re.search(r"Windows as a table.*?</table>", page, re.S)
    assert windows is not None and windows[0].count('<tr><th scope="row">') == 1
    if way.match is None:  # what to expect with this threshold is not known
        assert "The baseline is being collected: 1 of 5" in page
        assert "The site has a threshold of its own" in page
        assert "those it was tuned on" not in page and recorded_alarms(services) == []
    else:
        assert "check that the profile of the site is of images like these" in page
        assert len(recorded_alarms(services)) == 1
    engine.ways = {}  # what was answered before a change is never compared anew
    before, again = recorded_alarms(services), started(services)
    again.update()
    assert recorded_alarms(services) == before
    assert [bool(window.alarms) for window in again.stream("").windows] == [False, False]


def at(threshold: float, given: list[Any]) -> list[Any]:
    """The answers, of a site with this threshold."""
    return [replace(one, threshold=threshold) for one in given]


def test_a_threshold_ends_no_alarm_and_images_unlike_val_set_off_one(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another hospital's images, all referred: they are never taken for the normal state."""
    monkeypatch.setattr(monitor, "_SECONDS", 0.0)
    source, both = Source(8, 0.1), {("referral", ""): 1.0, ("distances", ""): 1.0}
    services.records.add_answers("ada", answered(source, WINDOW, 6.0, 2.0), IDENTITY)
    assert alarms(services) == both
    services.engine.ways = {"": Way(threshold=0.3)}
    assert alarms(services) == both  # no answer with the new settings says that it is over
    review = client(services, "review")
    page = review.get("/dashboard").text
    assert "Alarm before the settings of the site were changed." in page
    assert "No window of 50 cases is complete yet" in page

    for number in range(BASELINE_WINDOWS + 1):
        foreign = at(0.3, [replace(one, refer=True) for one in answered(source, WINDOW, 1.0, 2.0)])
        services.records.add_answers("ada", foreign, IDENTITY)
        # The first windows have nothing to compare the share with, so nothing says it is over.
        known, complete = number >= BASELINE_WINDOWS, number + 1 >= BASELINE_WINDOWS
        assert alarms(services) == {("referral", ""): float(not known), ("distances", ""): 1.0}
        page = review.get("/dashboard").text
        assert ("Alarm before the settings" in page) is not known
        assert "<strong>Alarm.</strong>" in page
        assert ("Most images were referred from the start." in page) is complete
        assert ("Expected: 100.0 % of images referred" in page) is complete
        assert "scores are compared with those on the images that the model was tuned on" in page
    services.records.add_answers("ada", at(0.3, answered(source, WINDOW)), IDENTITY)
    assert alarms(services) == {("referral", ""): 1.0, ("distances", ""): 0.0}
    settings = [(one["window"], one["threshold"], one["match"]) for one in recorded(services)]
    assert settings[:2] == [(1, None, ""), (1, 0.3, "")]


def test_only_a_window_that_compares_the_same_ends_an_alarm(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_SECONDS", 0.0)
    source, review = Source(9, 0.1), client(services, "review")
    services.records.add_answers("ada", answered(source, WINDOW, 6.0, 2.0), IDENTITY)
    services.engine.ways = {"": Way(threshold=0.3)}
    services.records.add_answers("ada", at(0.3, answered(source, WINDOW - 1)), IDENTITY)
    assert sum(alarms(services).values()) == 2.0
    services.records.add_answers("ada", at(0.3, answered(source, 1)), IDENTITY)
    assert alarms(services) == {("referral", ""): 1.0, ("distances", ""): 0.0}
    page = review.get("/dashboard").text
    assert "A window differed from what was expected: share of images referred (until" in page
    assert "only out-of-distribution scores can set off an alarm" in page

    services.engine.ways = {}  # back: what was found good meanwhile does not ring again
    assert alarms(services) == {("referral", ""): 1.0, ("distances", ""): 0.0}
    page = review.get("/dashboard").text
    assert "complete yet since the site has its earlier settings again: 0 so far" in page
    assert "The last window" not in page and "Alarm before the settings" in page
    for _ in range(BASELINE_WINDOWS):
        services.records.add_answers("ada", at(0.3, answered(source, WINDOW)), IDENTITY)
    assert not any(alarms(services).values())
    page = review.get("/dashboard").text
    assert "Alarm" not in page.split("Has anything changed?")[1].split("<details>")[0]


def test_windows_with_another_profile_do_not_end_an_alarm_for_good(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_SECONDS", 0.0)
    source, way = Source(10, 0.1), Way(Match(1.5, None), "8" * 64)
    services.records.add_answers("ada", answered(source, WINDOW, 6.0, 2.0), IDENTITY)
    matched = [replace(one, match=way.match_sha256) for one in answered(source, WINDOW)]
    services.records.add_answers("ada", matched, IDENTITY)
    services.engine.ways = {"": way}
    assert sum(alarms(services).values()) == 0.0
    services.engine.ways = {}
    assert sum(alarms(services).values()) == 2.0
    services.records.add_answers("ada", answered(source, WINDOW), IDENTITY)
    assert sum(alarms(services).values()) == 0.0


def recorded(services: Services) -> list[dict[str, Any]]:
    return [json.loads(alarm) for alarm in recorded_alarms(services)]
