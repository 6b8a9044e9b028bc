"""The app: every route, with what every request passes through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import bcd
from bcd.serving.answers import DISCLAIMER
from bcd.serving.api.problems import add_handlers
from bcd.serving.pages.render import STATIC
from bcd.serving.services import Services
from bcd.serving.web.metrics import Metrics, WatchedEngine
from bcd.serving.web.stack import add_middleware

if TYPE_CHECKING:
    from bcd.serving.engine.queue import Engine

ROUTERS = (
    "bcd.serving.api.predict",
    "bcd.serving.api.explain",
    "bcd.serving.api.model",
    "bcd.serving.api.cases",
    "bcd.serving.api.health",
    "bcd.serving.api.metrics",
    "bcd.serving.accounts.routes",
    "bcd.serving.pages.cases",
    "bcd.serving.pages.images",
    "bcd.serving.pages.reports",
    "bcd.serving.monitoring.routes",
)


def create_app(services: Services) -> FastAPI:
    """Makes the app; it closes the engine, but not the records, when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
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
    app.state.metrics = metrics = Metrics(services)
    engine = cast("Engine", WatchedEngine(services.engine, metrics))
    app.state.services = replace(services, engine=engine)
    app.state.stopping = False
    for module in ROUTERS:
        if find_spec(module) is not None:
            app.include_router(import_module(module).router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    add_handlers(app)
    add_middleware(app, services.cfg)
    return app
