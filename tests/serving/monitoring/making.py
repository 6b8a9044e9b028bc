"""A server with recorded answers, as the dashboard sees it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select
from starlette.testclient import TestClient

from bcd.evaluation.expectation import Expectation
from bcd.serving.answers import ImageAnswer
from bcd.serving.api import metrics
from bcd.serving.api.problems import add_handlers
from bcd.serving.engine.sites import Way
from bcd.serving.monitoring import routes
from bcd.serving.monitoring.monitor import Monitor, reference
from bcd.serving.records.tables import RECORDS
from bcd.serving.services import Services
from bcd.serving.web.metrics import Metrics
from tests.serving.making import IDENTITY, StubModel
from tests.serving.monitoring.answers import Source

WINDOW = 50
PEER = "127.0.0.1"
# Val of 300 images, of which a tenth was referred; scores as of a standard normal distribution.
REFERENCE = Source(0, 0.1).val(300)
assert REFERENCE.referred is not None
EXPECTED = Expectation(REFERENCE.referred, 300.0, REFERENCE.scores)


def answered(source: Source, n: int, times: float = 1.0, shift: float = 0.0) -> list[ImageAnswer]:
    scores = source.scores(n, shift)
    return [
        ImageAnswer(
            f"{i:064d}", (0.7, 0.1, 0.1, 0.1), "Benign", False, ("Benign",), refer,
            ("low confidence",) * refer, float(score), "", 5.0, IDENTITY.sha256,
        )
        for i, (score, refer) in enumerate(zip(scores, source.referred(scores, times), strict=True))
    ]  # fmt: skip


def engine_that_says(policy: dict[str, Any] | None) -> Any:
    facts = replace(StubModel.facts, policy=policy)
    model = SimpleNamespace(facts=facts)
    ways: dict[str, Way] = {}
    return SimpleNamespace(identity=IDENTITY, model=model, ways=ways, waiting=0, ready=lambda: "")


def started(services: Services) -> Monitor:
    """What a server that starts now makes of the records."""
    cfg = services.cfg.monitoring
    return Monitor(services.records, cfg, services.engine.identity.sha256, reference(services))


def client(services: Services, roles: str) -> TestClient:
    app = FastAPI()
    app.state.services = services
    app.state.metrics = Metrics(services)
    app.include_router(routes.router)
    app.include_router(metrics.router)
    add_handlers(app)
    headers = {"accept": "text/html", "X-Bcd-User": "ada", "X-Bcd-Roles": roles}
    return TestClient(app, headers=headers, client=(PEER, 1), follow_redirects=False)


def recorded_alarms(services: Services) -> list[str]:
    with services.records.engine.connect() as connection:
        query = select(RECORDS.c.payload).where(RECORDS.c.kind == "alarm")
        return list(connection.execute(query).scalars())
