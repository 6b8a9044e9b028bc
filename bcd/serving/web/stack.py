"""The middleware in its order."""

from __future__ import annotations

from fastapi import FastAPI

from bcd.config.serve import ServeConfig
from bcd.serving.web.bodies import BodyLimits
from bcd.serving.web.connections import ConnectionLimits
from bcd.serving.web.heads import Heads
from bcd.serving.web.hosts import AllowedHosts
from bcd.serving.web.observed import Observed
from bcd.serving.web.peers import Peers
from bcd.serving.web.rates import RateLimits


def add_middleware(app: FastAPI, cfg: ServeConfig) -> None:
    """Adds it; the last one added sees a request first.

    All of it is plain ASGI: Starlette's BaseHTTPMiddleware starts a task for every request.
    """
    app.add_middleware(Heads)
    app.add_middleware(BodyLimits, limits=cfg.limits)
    app.add_middleware(RateLimits, cfg=cfg)
    app.add_middleware(AllowedHosts, cfg=cfg)
    app.add_middleware(ConnectionLimits)
    app.add_middleware(Observed, metrics=app.state.metrics)
    app.add_middleware(Peers, trusted=cfg.proxy.trusted)
