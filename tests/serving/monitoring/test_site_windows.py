"""Windows and alarms of several sites, and of a site whose settings change."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from bcd.data.matching import Match
from bcd.serving.engine.sites import Way
from bcd.serving.monitoring.monitor import alarms
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
