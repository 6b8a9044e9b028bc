"""Follows the answers that are recorded, and says which alarms there are."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import structlog
from starlette.concurrency import run_in_threadpool

from bcd.config.serve import MonitoringConfig
from bcd.evaluation.expectation import Expectation
from bcd.serving.monitoring.drift import DISTANCES, REFERRAL, Reference
from bcd.serving.monitoring.windows import Stream
from bcd.serving.records.store import Records
from bcd.serving.services import Services

_SECONDS = 60.0  # for which `alarms` repeats its answer
_EVERY = 300.0  # seconds, after which `watch` looks for alarms
_USER = "server"

Key = tuple[str, str]  # sha256 of a model, and the name of a site

_MONITORS: WeakKeyDictionary[Records, Monitor] = WeakKeyDictionary()
_MONITORS_LOCK = threading.Lock()


class Monitor:
    """Windows of the answers of each model at each site; reads each answer once.

    Args:
        records: Where answers are recorded.
        cfg: Size of windows and share of false alarms.
        references: What is expected, by sha256 of the model and site. Of others the first windows
            are the reference.
    """

    def __init__(
        self, records: Records, cfg: MonitoringConfig, references: Mapping[Key, Reference]
    ) -> None:
        self._streams: dict[Key, Stream] = {}
        self._records, self._cfg, self._references = records, cfg, references
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

    def stream(self, sha256: str, site: str) -> Stream:
        """The answers of a model, by its sha256, at a site."""
        key = sha256, site
        if key not in self._streams:
            self._streams[key] = Stream(self._cfg, self._references.get(key))
        return self._streams[key]

    def _read(self) -> None:
        for row in self._records.statistics(0.0, after=self._last):
            self._last = row.record
            window = self.stream(row.model_sha256, row.site).add(row)
            if window is not None and window.alarms:
                self._found.append({
                    "model_sha256": row.model_sha256,
                    "site": row.site,
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
            found = Monitor(services.records, services.cfg.monitoring, references(services))
            _MONITORS[services.records] = found
        return found


def references(services: Services) -> dict[Key, Reference]:
    """What the model in use says of val, for each site; empty if it says nothing.

    At a site with a threshold of its own, other images are referred than on val, as a contradiction
    between threshold and class is a reason.
    """
    policy = services.engine.model.facts.policy
    plain = None if policy is None else policy.get("expectation")
    if plain is None:
        return {}
    known = Expectation.from_plain(plain)
    made = Reference(known.referred, known.n, known.scores, known.n, "val")
    sha256, sites = services.engine.identity.sha256, services.sites.values()
    return {(sha256, site.name): made for site in sites if site.threshold is None}


def alarms(services: Services) -> dict[tuple[str, str], float]:
    """Whether the last window of the model in use sets off each alarm at each site, 0 or 1.

    For `/metrics`. It reads at most once a minute what was recorded; call it in a thread.
    """
    monitor = get_monitor(services)
    monitor.update(_SECONDS)
    found: dict[tuple[str, str], float] = {}
    for site in services.sites:
        windows = monitor.stream(services.engine.identity.sha256, site).windows
        last = windows[-1].alarms if windows else ()
        found |= {(name, site): float(name in last) for name in (REFERRAL, DISTANCES)}
    return found


async def watch(services: Services) -> None:
    """Looks for alarms every few minutes, until it is cancelled."""
    while True:
        await asyncio.sleep(_EVERY)
        try:
            await run_in_threadpool(get_monitor(services).update)
        except Exception:  # the next look finds what this one missed
            structlog.get_logger().exception("monitoring_failed")
