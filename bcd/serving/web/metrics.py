"""Figures for Prometheus; nothing that a user sent is a label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from bcd.serving.answers import ImageAnswer
from bcd.serving.engine.queue import Engine
from bcd.serving.errors import RequestError
from bcd.serving.outbox.entries import Counts
from bcd.serving.records.cases import NewImage
from bcd.serving.services import Services

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a time for every count, which nobody reads


class Metrics:
    """Counts requests and answers.

    Args:
        services: Its queue is measured when somebody asks.
    """

    def __init__(self, services: Services) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bcd_requests", "Requests", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "bcd_request_seconds", "Seconds of a request", ["route"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._answers = Counter(
            "bcd_answers", "Images by class; none: no answer", ["answer", "referred", "site"],
            registry=self.registry,
        )  # fmt: skip
        self._errors = Counter(
            "bcd_engine_errors", "Requests for answers that failed", ["kind"],
            registry=self.registry,
        )  # fmt: skip
        waiting = Gauge("bcd_queue_images", "Images that wait", registry=self.registry)
        waiting.set_function(lambda: services.engine.waiting)
        room = Gauge("bcd_queue_limit", "Images that may wait", registry=self.registry)
        room.set(services.cfg.limits.queue)
        self._jobs = Gauge(
            "bcd_jobs_waiting", "Images in the database that wait for an answer",
            registry=self.registry,
        )  # fmt: skip
        self._alarms = Gauge(
            "bcd_alarms", "1 if the last window of answers sets off this alarm", ["alarm", "site"],
            registry=self.registry,
        )  # fmt: skip
        self._outbox = {
            state: Gauge(f"bcd_outbox_{state}", f"Cases {what}", registry=self.registry)
            for state, what in (
                ("waiting", "that wait to be posted to the FHIR server"),
                ("failed", "that the FHIR server does not take"),
                ("not_erased", "that are erased here, but not yet on a FHIR server"),
            )
        }
        ready = Gauge("bcd_ready", "1 if the model can answer", registry=self.registry)
        ready.set_function(lambda: float(not services.engine.ready()))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            method: Of HTTP; unknown ones count together.
            route: The template of its path, such as /v1/cases/{case_id}.
            status: Of HTTP.
            seconds: From its headers to the end of the answer.
        """
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answers(self, answers: Iterable[ImageAnswer], site: str) -> None:
        """Counts answers about images of a site."""
        for answer in answers:
            referred = str(answer.refer).lower()
            self._answers.labels(answer.predicted or "none", referred, site).inc()

    def alarms(self, found: Mapping[tuple[str, str], float]) -> None:
        """Sets the alarms; see `bcd.serving.monitoring.monitor.alarms`."""
        for (name, site), value in found.items():
            self._alarms.labels(name, site).set(value)

    def outbox(self, counts: Counts) -> None:
        """Sets how many cases wait in the outbox, have failed, or are erased here only."""
        for state, gauge in self._outbox.items():
            gauge.set(getattr(counts, state))

    def jobs(self, count: int) -> None:
        """Sets the number of images that wait in the database."""
        self._jobs.set(count)

    def engine_error(self, kind: str) -> None:
        """Counts a request that the engine did not answer, by the class of its error."""
        self._errors.labels(kind).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return bytes(generate_latest(self.registry))


class WatchedEngine:
    """An engine whose answers and errors are counted, whichever page or route asks.

    Args:
        engine: It answers.
        metrics: Counts.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics

    async def answer(self, images: Sequence[bytes], site: str = "") -> list[ImageAnswer]:
        """As `Engine.answer`."""
        try:
            answers = await self._engine.answer(images, site)
        except RequestError as error:
            self._metrics.engine_error(type(error).__name__)
            raise
        self._metrics.answers(answers, site)
        return answers

    def refuse(self, image: NewImage, site: str = "") -> ImageAnswer:
        """As `Engine.refuse`."""
        answer = self._engine.refuse(image, site)
        self._metrics.answers([answer], site)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
