"""GET /dashboard: figures over time, and alarms."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from bcd.serving.accounts.access import User, require
from bcd.serving.api.dependencies import Served
from bcd.serving.engine.sites import AS_TRAINED, Way
from bcd.serving.monitoring.charts import Chart, bar_chart, line_chart
from bcd.serving.monitoring.drift import Reference
from bcd.serving.monitoring.figures import DAY, NO_ANSWER, Counts, Figures, summarise
from bcd.serving.monitoring.monitor import get_monitor, ringing, stream_now
from bcd.serving.monitoring.windows import BASELINE_WINDOWS, Window
from bcd.serving.outbox.listing import Listing
from bcd.serving.pages.render import page
from bcd.serving.records.queries import AnswerRow
from bcd.serving.services import Services
from bcd.serving.sites import seen_site, visible_sites

router = APIRouter(include_in_schema=False)

PERIODS = {7: "7 days", 30: "30 days", 90: "90 days", 365: "a year"}
_WEEKS_FROM = 180  # days, from which weeks are shown instead of days
_SHOWN = 40  # windows in the chart
_ALARMS = {
    "referral": "share of images referred",
    "distances": "distribution of out-of-distribution scores",
}


@dataclass(frozen=True)
class ModelWindows:
    """The windows of the model in use at a site.

    Attributes:
        windows: The last ones, the newest last.
        reference: What they are compared with; None if it is not known yet.
        images: Images after the last window that will be compared.
        way: How the site's images are answered now.
        current: Whether the last one is the newest of the site, thus not of before a change of its
            settings.
        ringing: The windows that set off alarms, by alarm.
    """

    windows: list[Window]
    reference: Reference | None
    images: int
    way: Way
    current: bool
    ringing: dict[str, Window]

    @property
    def alarms(self) -> list[str]:
        """What the last window sets off, in words."""
        return [_ALARMS[name] for name, window in self.ringing.items() if self._is_last(window)]

    @property
    def alarms_before(self) -> dict[str, Window]:
        """What windows set off before a change of settings, in words."""
        rings = self.ringing.items()
        return {_ALARMS[name]: window for name, window in rings if not self._is_last(window)}

    def _is_last(self, window: Window) -> bool:
        return self.current and window is self.windows[-1]

    @property
    def mostly_referred(self) -> bool:
        """Whether most of the first images were referred, and this is what is expected."""
        known = self.reference
        share = None if known is None or known.source != "baseline" else known.referred
        return share is not None and share > 0.5


@dataclass(frozen=True)
class SiteRow:
    """A row of the table of sites.

    Attributes:
        name: Of the site.
        counts: Of its answers in the period.
        alarms: Of the model in use, in words.
    """

    name: str
    counts: Counts
    alarms: list[str]


@router.get("/dashboard")
async def dashboard(
    request: Request,
    services: Served,
    user: Annotated[User, Depends(require("review", "sign", "admin"))],
    days: Annotated[Literal["7", "30", "90", "365"], Query()] = "30",
    site: Annotated[str | None, Query(max_length=32)] = None,
) -> HTMLResponse:
    """The page: figures of one site, and those of all that the user sees as a table."""
    period = int(days)
    outbox, url = Listing(services.records.engine), services.cfg.fhir.url
    # It counts cases of all sites.
    counts = None if user.site else await run_in_threadpool(outbox.counts)
    on = {} if counts is None else counts.not_erased_on
    here = None if url is None else url.rstrip("/")  # which is told of erased cases by itself
    chosen = seen_site(user, site)
    chosen = services.cfg.site if chosen is None else chosen
    found, windows, names, rows = await run_in_threadpool(_collect, services, user, period, chosen)
    return page(
        request,
        "dashboard.html",
        user,
        figures=found,
        site=chosen,
        sites=rows,
        now=windows,
        names=names,
        days=period,
        periods=PERIODS,
        spans_are="Weeks" if _step(period) > 1 else "Days",
        charts=_charts(found, windows),
        monitoring=services.cfg.monitoring,
        baseline=BASELINE_WINDOWS,
        alarm_names=_ALARMS,
        no_answer=NO_ANSWER,
        outbox=None if url is None else counts,
        not_erased={server: count for server, count in on.items() if server != here},
    )


def _collect(
    services: Services, user: User, days: int, site: str
) -> tuple[Figures, ModelWindows, dict[str, str], list[SiteRow]]:
    """Of a site figures of the period and windows of the model in use; and all that are seen.

    With the names of models by their sha256.
    """
    get_monitor(services).update()
    until = time.time()
    since = (until // DAY + 1 - days) * DAY
    counts = {name: Counts() for name in visible_sites(services, user)}
    rows = _of_site(services.records.statistics(since), site, user, counts)
    found = summarise(rows, since, until, _step(days))
    names = {}
    for sha256 in found.models:
        known = services.records.model_of(sha256)
        names[sha256] = sha256[:12] if known is None else known.name

    def windows(name: str) -> ModelWindows:
        stream, way = stream_now(services, name), services.engine.ways.get(name, AS_TRAINED)
        last, newest = list(stream.windows[-_SHOWN:]), get_monitor(services).newest(name)
        current = bool(last) and last[-1] is newest
        rings = ringing(services, name)
        return ModelWindows(last, stream.reference, stream.images, way, current, rings)

    def row(name: str, count: Counts) -> SiteRow:
        return SiteRow(name, count, [_ALARMS[alarm] for alarm in ringing(services, name)])

    sites = [row(name, count) for name, count in counts.items()]
    return found, windows(site), names, sites


def _of_site(
    rows: Iterable[AnswerRow], site: str, user: User, counts: dict[str, Counts]
) -> Iterator[AnswerRow]:
    """The answers of a site; counts those of all sites that the user sees."""
    for row in rows:
        if user.sees(row.site):
            counts.setdefault(row.site, Counts()).add(row)
            if row.site == site:
                yield row


def _step(days: int) -> int:
    """Days of each span of a period."""
    return 7 if days > _WEEKS_FROM else 1


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _charts(figures: Figures, now: ModelWindows) -> dict[str, Chart]:
    days = [span.day for span in figures.spans]
    counts = [span.counts for span in figures.spans]
    numbers = [str(window.number) for window in now.windows]
    compared = [window.compared for window in now.windows]
    return {
        "answers": bar_chart("Answers", days, [one.answers for one in counts]),
        "shares": line_chart(
            "Share of images referred, and of reviewed images overridden",
            days,
            {
                "referred": [_share(one.referred, one.answers) for one in counts],
                "overridden": [_share(one.overridden, one.reviewed) for one in counts],
            },
            percent=True,
        ),
        "referred": line_chart(
            "Share of compared images referred, by window",
            numbers,
            {"referred": [window.referred for window in now.windows]},
            [bool(window.alarms) for window in now.windows],
            [None if one is None else one.band for one in compared],
            percent=True,
        ),
        "scores": line_chart(
            "Out-of-distribution score",
            days,
            {
                "median": [span.median for span in figures.spans],
                "95 % quantile": [span.high for span in figures.spans],
            },
        ),
    }
