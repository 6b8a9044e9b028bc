"""The app: every route, with what every request passes through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import bcd
from bcd.config.disclaimer import DISCLAIMER
from bcd.serving.accounts import routes as accounts
from bcd.serving.api import cases, explain, health, metrics, model, objects, predict
from bcd.serving.api.problems import Problem, add_handlers, describe
from bcd.serving.intake.start import Intake
from bcd.serving.jobs.worker import work
from bcd.serving.monitoring import routes as monitoring
from bcd.serving.monitoring.monitor import watch
from bcd.serving.outbox.sender import post_reports
from bcd.serving.pages import cases as pages
from bcd.serving.pages import images, reports
from bcd.serving.pages.render import STATIC
from bcd.serving.services import Services
from bcd.serving.tasks import Tasks
from bcd.serving.web.metrics import Metrics, WatchedEngine
from bcd.serving.web.stack import add_middleware

if TYPE_CHECKING:
    from bcd.serving.engine.queue import Engine

ROUTERS = (
    predict.router,
    explain.router,
    model.router,
    cases.router,
    objects.router,
    health.router,
    metrics.router,
    accounts.router,
    pages.router,
    images.router,
    reports.router,
    monitoring.router,
)


def create_app(services: Services, intake: Intake | None = None) -> FastAPI:
    """Makes the app; when it shuts down, it closes the engine, but not the records.

    Args:
        services: What it answers with.
        intake: Takes the images of scanners while the app runs; None for none.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks: Tasks = app.state.tasks
        regular = {"monitoring": watch, "jobs": work, "outbox": post_reports}
        for name, each in regular.items():
            tasks.start(name, partial(each, app.state.services))
        if intake is not None:
            intake.start(app.state.services, app.state.metrics.registry, tasks)
        yield
        await tasks.stop()
        if intake is not None:
            await intake.stop()
        await services.engine.close()

    app = FastAPI(
        title="bcd",
        description=f"Classifies images of blood smears. {DISCLAIMER}",
        version=bcd.__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # FastAPI's loads its script from a CDN
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.metrics = watched = Metrics(services)
    engine = cast("Engine", WatchedEngine(services.engine, watched))
    app.state.services = replace(services, engine=engine)
    app.state.stopping = False
    app.state.tasks = Tasks()
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    add_handlers(app)
    describe(app, Problem, predict.Unanswered)
    add_middleware(app, services.cfg)
    return app
