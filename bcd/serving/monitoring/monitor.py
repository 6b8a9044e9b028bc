"""Follows the answers that are recorded, and says which alarms there are."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from weakref import WeakKeyDictionary

import structlog
from starlette.concurrency import run_in_threadpool

from bcd.config.serve import MonitoringConfig
from bcd.evaluation.expectation import Expectation
from bcd.serving.engine.sites import AS_TRAINED
from bcd.serving.monitoring.drift import DISTANCES, REFERRAL, Reference
from bcd.serving.monitoring.windows import Stream, Window
from bcd.serving.records.store import Records
from bcd.serving.services import Services

_SECONDS = 60.0  # for which `alarms` repeats its answer
_EVERY = 300.0  # seconds, after which `watch` looks for alarms
_USER = "server"

# Name of a site, and of its answers the threshold and the sha256 of the match: after a change of
# these, the same images may be referred more or less often.
Key = tuple[str, float | None, str]

_MONITORS: WeakKeyDictionary[Records, Monitor] = WeakKeyDictionary()
_MONITORS_LOCK = threading.Lock()


class Monitor:
    """Windows of the answers of a model at each site; reads each answer once.

    Args:
        records: Where answers are recorded.
        cfg: Size of windows and share of false alarms.
        sha256: Of the model, the one in use: what is expected of others is not known.
        reference: What is expected; None if the model does not say.
    """

    def __init__(
        self, records: Records, cfg: MonitoringConfig, sha256: str, reference: Reference | None
    ) -> None:
        self._streams: dict[Key, Stream] = {}
        self._records, self._cfg, self._sha256, self._reference = records, cfg, sha256, reference
        self._lock = threading.Lock()
        self._last = 0  # record
        self._found: list[dict[str, object]] = []  # alarms that are not known to be recorded
        self._updated = 0.0

    def update(self, seconds: float = 0.0) -> None:
        """Reads what was recorded since the last call, unless that was less than some seconds ago.

        With `seconds`, it does not wait for another thread that is reading. An alarm that is not
        recorded yet is recorded and logged, also one of a window that was complete before this
        process started.

        Raises:
            UnavailableError: The records cannot be used.
            StorageFullError: An alarm cannot be recorded.
        """
        if not self._lock.acquire(blocking=not seconds):
            return
        try:
            if seconds and time.monotonic() - self._updated < seconds:
                return
            self._updated = time.monotonic()
            self._read()
            for facts in self._records.alarms(_USER, self._found) if self._found else ():
                structlog.get_logger().warning("monitoring_alarm", **facts)
            self._found = []
        finally:
            self._lock.release()

    def stream(self, site: str, threshold: float | None = None, match: str = "") -> Stream:
        """The answers at a site that have this threshold and match.

        With a threshold of the site, other images are referred than on val, as a contradiction
        between threshold and class is a reason. Then the first windows say how many; scores do not
        depend on a threshold and are compared with those of val from the first window on.
        """
        key = site, threshold, match
        if key not in self._streams:
            reference = self._reference
            if threshold is not None and reference is not None:
                reference = replace(reference, referred=None, n=0)
            self._streams[key] = Stream(self._cfg, reference)
        return self._streams[key]

    def newest(self, site: str, alarm: str = "", match: str | None = None) -> Window | None:
        """The newest window of a site.

        Args:
            site: Its name.
            alarm: The window says whether there is this alarm; empty: any window.
            match: The window has this match; None: any.
        """
        found = [
            next(
                (one for one in reversed(stream.windows) if not alarm or one.compares(alarm)), None
            )
            for (name, _, own), stream in [*self._streams.items()]
            if name == site and match in (None, own)
        ]
        windows = [window for window in found if window is not None]
        return max(windows, key=lambda one: one.last_record, default=None)

    def ringing(self, site: str, match: str) -> dict[str, Window]:
        """The alarms of a site, each with the window that sets it off.

        An alarm ends with the next window that says something about it, whatever the threshold: a
        change of settings does not end it, and going back to earlier ones does not bring it back.
        But windows with another match, thus of images that look otherwise, do not end one for good:
        the last window with the match of now counts as well.
        """
        found: dict[str, Window] = {}
        for alarm in (REFERRAL, DISTANCES):
            for window in (self.newest(site, alarm, match), self.newest(site, alarm)):
                if window is not None and alarm in window.alarms:
                    found[alarm] = window
        return found

    def _read(self) -> None:
        for row in self._records.statistics(0.0, after=self._last):
            self._last = row.record
            if row.model_sha256 != self._sha256:
                continue
            window = self.stream(row.site, row.threshold, row.match).add(row)
            if window is not None and window.alarms:
                self._found.append({
                    "model_sha256": row.model_sha256,
                    "site": row.site,
                    "threshold": row.threshold,
                    "match": row.match,
                    "window": window.number,
                    "last_record": window.last_record,
                    "alarms": list(window.alarms),
                    "referred": round(window.referred, 4),
                })  # fmt: skip


def get_monitor(services: Services) -> Monitor:
    """The one monitor of these records."""
    with _MONITORS_LOCK:
        found = _MONITORS.get(services.records)
        if found is None:
            sha256, expected = services.engine.identity.sha256, reference(services)
            found = Monitor(services.records, services.cfg.monitoring, sha256, expected)
            _MONITORS[services.records] = found
        return found


def reference(services: Services) -> Reference | None:
    """What the model in use says of val; None if it says nothing."""
    policy = services.engine.model.facts.policy
    plain = None if policy is None else policy.get("expectation")
    if plain is None:
        return None
    known = Expectation.from_plain(plain)
    return Reference(known.referred, known.n, known.scores, known.n, "val", "val")


def stream_now(services: Services, site: str) -> Stream:
    """The answers of the model in use at a site with the settings that the site has now."""
    return get_monitor(services).stream(*_key_now(services, site))


def _key_now(services: Services, site: str) -> Key:
    way = services.engine.ways.get(site, AS_TRAINED)
    return site, way.threshold, way.match_sha256


def ringing(services: Services, site: str) -> dict[str, Window]:
    """The alarms of the model in use at a site; see `Monitor.ringing`."""
    _, _, match = _key_now(services, site)
    return get_monitor(services).ringing(site, match)


def alarms(services: Services) -> dict[tuple[str, str], float]:
    """Whether there is each alarm of the model in use at each site, 0 or 1.

    For `/metrics`. It reads at most once a minute what was recorded; call it in a thread.
    """
    get_monitor(services).update(_SECONDS)
    found: dict[tuple[str, str], float] = {}
    for site in services.sites:
        rings = ringing(services, site)
        found |= {(name, site): float(name in rings) for name in (REFERRAL, DISTANCES)}
    return found


async def watch(services: Services) -> None:
    """Looks for alarms every few minutes, until it is cancelled."""
    while True:
        await asyncio.sleep(_EVERY)
        try:
            await run_in_threadpool(get_monitor(services).update)
        except Exception:  # the next look finds what this one missed
            structlog.get_logger().exception("monitoring_failed")
